//! An S3-compatible server over a directory: `sallyport-s3 DIRECTORY ACCESS-KEY SECRET-KEY [ADDRESS]`.
//!
//! Owns nothing but the wiring. Touches the directory and a free port of loopback, or of that address, which it prints. Invariant: it ends
//! when its standard input does, so that whoever started it cannot leave it behind.

use std::io::Write as _;

use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use s3s_fs::FileSystem;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let mut next = || arguments.next().ok_or("usage");
    let (directory, access, secret) = (next()?, next()?, next()?);
    let address = next().unwrap_or_else(|_| "127.0.0.1".to_owned());
    let mut service = S3ServiceBuilder::new(FileSystem::new(directory).map_err(|error| format!("{error:?}"))?);
    service.set_auth(SimpleAuth::from_single(access, secret));
    let service = service.build();
    let listener = TcpListener::bind((address.as_str(), 0)).await?;
    println!("{}", listener.local_addr()?.port());
    std::io::stdout().flush()?;
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let serving = http1::Builder::new().serve_connection(TokioIo::new(socket), service.clone());
            tokio::spawn(async move {
                let _hung_up = serving.await;
            });
        }
    });
    let mut rest = Vec::new();
    tokio::io::stdin().read_to_end(&mut rest).await?;
    Ok(())
}

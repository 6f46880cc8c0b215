//! An S3-compatible server over a directory: `sallyport-s3 DIRECTORY ACCESS-KEY SECRET-KEY`.
//!
//! Owns nothing but the wiring. Touches the directory and a free port of loopback, which it prints. Invariant: it ends
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
    let [directory, access, secret] = std::env::args().skip(1).collect::<Vec<_>>().try_into().map_err(|_| "usage")?;
    let mut service = S3ServiceBuilder::new(FileSystem::new(directory).map_err(|error| format!("{error:?}"))?);
    service.set_auth(SimpleAuth::from_single(access, secret));
    let service = service.build();
    let listener = TcpListener::bind("127.0.0.1:0").await?;
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

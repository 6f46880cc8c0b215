//! tokio-postgres through the proxy: the Rust driver, over rustls with an agent's certificate.
//! It opens connections and nothing more. The connection's end is told as text.

use std::pin::Pin;
use std::sync::Arc;

use anyhow::{Context, Result};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use sallyport_harness::LeafFiles;
use tokio::task::JoinHandle;
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect};

use crate::Guarded;

/// Opens a session as the fixture's agent.
pub async fn connect(guarded: &Guarded) -> Result<(tokio_postgres::Client, JoinHandle<String>)> {
    connect_as(guarded, &guarded.agent).await
}

/// Opens a session with another certificate.
pub async fn connect_as(guarded: &Guarded, files: &LeafFiles) -> Result<(tokio_postgres::Client, JoinHandle<String>)> {
    connect_to("localhost", guarded.port(), &guarded.pki.ca_pem(), files).await
}

/// Opens a session through the proxy on that loopback port, which must prove that it is `host`.
pub async fn connect_to(
    host: &str,
    port: u16,
    ca_pem: &str,
    files: &LeafFiles,
) -> Result<(tokio_postgres::Client, JoinHandle<String>)> {
    let config = format!("host={host} hostaddr=127.0.0.1 port={port} dbname=postgres user=default");
    let (client, connection) = tokio_postgres::connect(&config, Tls(client_config(ca_pem, files)?)).await?;
    let ended = tokio::spawn(async move {
        match connection.await {
            Ok(()) => "closed".to_owned(),
            Err(error) => error.as_db_error().map_or_else(|| error.to_string(), ToString::to_string),
        }
    });
    Ok((client, ended))
}

/// TLS settings of that agent.
pub fn client_config(ca_pem: &str, files: &LeafFiles) -> Result<Arc<rustls::ClientConfig>> {
    let mut roots = rustls::RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(ca_pem.as_bytes()) {
        roots.add(certificate?)?;
    }
    let chain = CertificateDer::pem_file_iter(&files.cert)?.collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(&files.key)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .context("the agent's certificate and key do not fit")?;
    Ok(Arc::new(config))
}

struct Tls(Arc<rustls::ClientConfig>);

impl<S> MakeTlsConnect<S> for Tls
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    type Stream = Stream<S>;
    type TlsConnect = Connect;
    type Error = rustls_pki_types::InvalidDnsNameError;

    fn make_tls_connect(&mut self, host: &str) -> Result<Connect, Self::Error> {
        Ok(Connect(Arc::clone(&self.0), ServerName::try_from(host.to_owned())?))
    }
}

struct Connect(Arc<rustls::ClientConfig>, ServerName<'static>);

impl<S> TlsConnect<S> for Connect
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    type Stream = Stream<S>;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = std::io::Result<Stream<S>>> + Send>>;

    fn connect(self, stream: S) -> Self::Future {
        let connector = tokio_rustls::TlsConnector::from(self.0);
        Box::pin(async move { Ok(Stream(Box::new(connector.connect(self.1, stream).await?))) })
    }
}

/// The encrypted stream, with what tokio-postgres asks of one.
pub struct Stream<S>(Box<tokio_rustls::client::TlsStream<S>>);

impl<S> std::fmt::Debug for Stream<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Stream")
    }
}

impl<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin> tokio::io::AsyncRead for Stream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        Pin::new(&mut *self.0).poll_read(cx, buf)
    }
}

impl<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin> tokio::io::AsyncWrite for Stream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
        buf: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        Pin::new(&mut *self.0).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> std::task::Poll<std::io::Result<()>> {
        Pin::new(&mut *self.0).poll_flush(cx)
    }
    fn poll_shutdown(
        mut self: Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        Pin::new(&mut *self.0).poll_shutdown(cx)
    }
}

impl<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin> tokio_postgres::tls::TlsStream for Stream<S> {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

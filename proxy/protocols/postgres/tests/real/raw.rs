//! A client that says exactly what a test wants, message by message.
//!
//! Owns the framing. Touches the stream it is given. Invariant: every wait has a deadline.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

pub(crate) struct Raw<S>(pub(crate) S);

pub(crate) fn message(kind: u8, body: &[&[u8]]) -> Vec<u8> {
    let body = body.concat();
    let mut out = vec![kind];
    out.extend_from_slice(&u32::try_from(body.len() + 4).unwrap().to_be_bytes());
    out.extend_from_slice(&body);
    out
}

pub(crate) fn startup(version: i32, parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut body = version.to_be_bytes().to_vec();
    for (name, value) in parameters {
        body.extend_from_slice(format!("{name}\0{value}\0").as_bytes());
    }
    body.push(0);
    let mut out = u32::try_from(body.len() + 4).unwrap().to_be_bytes().to_vec();
    out.extend_from_slice(&body);
    out
}

pub(crate) fn query(text: &str) -> Vec<u8> {
    message(b'Q', &[text.as_bytes(), b"\0"])
}
pub(crate) fn parse(name: &str, text: &str) -> Vec<u8> {
    message(b'P', &[name.as_bytes(), b"\0", text.as_bytes(), b"\0\0\0"])
}
pub(crate) fn bind(portal: &str, statement: &str) -> Vec<u8> {
    message(b'B', &[portal.as_bytes(), b"\0", statement.as_bytes(), b"\0\0\0\0\0\0\0"])
}
pub(crate) fn execute(portal: &str, rows: u32) -> Vec<u8> {
    message(b'E', &[portal.as_bytes(), b"\0", &rows.to_be_bytes()])
}
pub(crate) fn sync() -> Vec<u8> {
    message(b'S', &[])
}
pub(crate) fn flush() -> Vec<u8> {
    message(b'H', &[])
}

impl<S: AsyncRead + AsyncWrite + Unpin> Raw<S> {
    pub(crate) async fn send(&mut self, messages: &[Vec<u8>]) {
        self.0.write_all(&messages.concat()).await.unwrap();
        self.0.flush().await.unwrap();
    }

    pub(crate) async fn message(&mut self) -> Option<(u8, Vec<u8>)> {
        let read = async {
            let kind = self.0.read_u8().await.ok()?;
            let length = self.0.read_u32().await.ok()?;
            let mut body = vec![0; usize::try_from(length).unwrap() - 4];
            self.0.read_exact(&mut body).await.ok()?;
            Some((kind, body))
        };
        timeout(Duration::from_secs(20), read).await.expect("nothing came")
    }

    /// Messages up to the `count`th ReadyForQuery or the end, as a line; errors with code and message.
    pub(crate) async fn until_ready(&mut self, count: usize) -> String {
        let (mut words, mut ready) = (Vec::new(), 0);
        while ready < count {
            let Some((kind, body)) = self.message().await else {
                words.push("end".to_owned());
                break;
            };
            words.push(word(kind, &body));
            ready += usize::from(kind == b'Z');
        }
        words.join(" ")
    }

    pub(crate) async fn log_in(mut self) -> Self {
        self.send(&[startup(196_608, &[("user", "bot"), ("database", "postgres")])]).await;
        let told = self.until_ready(1).await;
        assert!(told.ends_with("ZI"), "{told}");
        self
    }
}

pub(crate) fn word(kind: u8, body: &[u8]) -> String {
    let field = |wanted: u8| {
        let fields = body.split(|byte| *byte == 0).filter(|field| field.first() == Some(&wanted));
        fields.map(|field| String::from_utf8_lossy(&field[1..]).into_owned()).next().unwrap_or_default()
    };
    match kind {
        b'E' => format!("E{}", field(b'C')),
        b'Z' => format!("Z{}", char::from(body[0])),
        other => char::from(other).to_string(),
    }
}

//! Logging in to the target with the credential that the grant lends.
//!
//! Owns the words of that exchange. Touches the connection it opens. Invariants: the target proves that it
//! knows the password (SCRAM) before anything of a client goes to it; nothing is read past its answer to the
//! request for TLS; what it may send before it is ready is bounded.

mod scram;

use bytes::{Bytes, BytesMut};
use sallyport_core::Fault;
use sallyport_core::gate::Way;
use sallyport_core::ports::{BoxedIo, Credential};
use sallyport_core::protocol::Masking;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use self::scram::Scram;
use crate::codec::backend::{self, Kind, Status};
use crate::codec::startup::{self, CancelKey, SSL_REQUEST};
use crate::codec::{self, HEADER};
use crate::mask::{self, Catalog, LONGEST_DESCRIPTION};

/// Longest message of a login.
const LONGEST_MESSAGE: usize = 64 * 1024;
/// Messages of a login at most.
const MOST_MESSAGES: usize = 500;
/// Bytes of reported settings at most.
const MOST_STATUS_BYTES: usize = 64 * 1024;

const BROKE: &str = "the target broke the protocol during login";
const REFUSED: &str = "the target refused this proxy's credential: tell the target's owner";
const NO_DATABASE: &str = "the target has no database of that name, or this credential may not connect to it";
const NO_ROOM: &str = "the target takes no more connections now: try again later";
const NOT_NOW: &str = "the target is starting up or shutting down: try again later";
const UNPROVEN: &str = "the target did not prove that it knows the password: tell the target's owner";
const NO_TLS: &str = "the target does not offer TLS, which its owner demands";
const OTHER_MEANING: &str = "the target did not take the settings that commands are judged under";
const FAILED: &str = "the target refused the login";
const GONE: &str = "the connection to the target broke during login";

/// SQLSTATE of what a client is told of the target's faults.
pub(crate) fn code_of(told: &str) -> &'static str {
    match told {
        NO_DATABASE => "3D000",
        NO_ROOM => "53300",
        NOT_NOW => "57P03",
        _ => "08006",
    }
}

/// A target that is ready for commands.
pub(crate) struct Target {
    pub(crate) io: BoxedIo,
    /// What was read past the login.
    pub(crate) read: BytesMut,
    /// Settings it reported, in their order.
    pub(crate) statuses: Vec<(Bytes, Bytes)>,
    /// For cancel requests, where it gave one.
    pub(crate) key: Option<CancelKey>,
    /// What it said of its catalog, where it was asked.
    pub(crate) catalog: Option<Catalog>,
}

/// Opens a connection to the target, with TLS where the bundle demands it. The second part is the server's
/// certificate, for channel binding.
pub(crate) async fn connect(way: &Way) -> Result<(BoxedIo, Option<Vec<u8>>), Fault> {
    let mut io = way.dial().await?;
    if !way.wants_tls() {
        return Ok((io, None));
    }
    io.write_all(&SSL_REQUEST).await.map_err(gone)?;
    io.flush().await.map_err(gone)?;
    // One byte and no more: whatever came behind it in the clear goes into the TLS handshake and fails there
    // (CVE-2021-23222).
    match io.read_u8().await.map_err(gone)? {
        b'S' => {}
        other => return Err(Fault::upstream(NO_TLS, format!("0x{other:02x} in answer to the request for TLS"))),
    }
    match way.secure(io).await? {
        Ok(stream) => {
            let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
            let certificate = certificate.map(|certificate| certificate.as_ref().to_vec());
            Ok((Box::new(stream), certificate))
        }
        Err(_) => Err(Fault::internal(NO_TLS, "the dialer has no TLS for a target that demands it")),
    }
}

/// Logs in. `parameters` are those of the client, already checked.
pub(crate) async fn login(
    way: &Way,
    credential: &Credential,
    parameters: &[(String, String)],
    search_path: &str,
    masking: Option<&Masking>,
) -> Result<Target, Fault> {
    let (io, certificate) = connect(way).await?;
    let mut login = Login { io, read: BytesMut::with_capacity(8 * 1024), messages: 0, statuses: Vec::new(), key: None };
    // The settings that commands are judged under are always said, whatever role or database set.
    let ours = [
        ("user", credential.username.as_str()),
        ("search_path", search_path),
        ("client_encoding", "UTF8"),
        ("standard_conforming_strings", "on"),
    ];
    let theirs = parameters.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    login.send(&startup::startup(ours.into_iter().chain(theirs))).await?;
    login.authenticate(Scram::new(credential, certificate.as_deref(), way.wants_tls())).await?;
    login.until_ready().await?;
    login.verify_settings(search_path).await?;
    let catalog = match masking {
        Some(masking) => Some(login.ask(masking).await?),
        None => None,
    };
    Ok(Target { io: login.io, read: login.read, statuses: login.statuses, key: login.key, catalog })
}

struct Login {
    io: BoxedIo,
    read: BytesMut,
    messages: usize,
    statuses: Vec<(Bytes, Bytes)>,
    key: Option<CancelKey>,
}

impl Login {
    async fn send(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        self.io.write_all(bytes).await.map_err(gone)?;
        self.io.flush().await.map_err(gone)
    }

    async fn send_password_message(&mut self, body: &[&[u8]]) -> Result<(), Fault> {
        let mut out = BytesMut::new();
        codec::message(&mut out, b'p', body);
        self.send(&out).await
    }

    /// The next message that is neither a notice nor a reported setting.
    async fn next(&mut self) -> Result<(Kind, Bytes), Fault> {
        loop {
            let (kind, body) = self.message().await?;
            match kind {
                Kind::NoticeResponse => {}
                Kind::ErrorResponse => return Err(refused(&body)),
                Kind::ParameterStatus => self.status(&body)?,
                _ => return Ok((kind, body)),
            }
        }
    }

    /// What the catalog says that masks must know. Where it cannot be told, nothing is known.
    async fn ask(&mut self, masking: &Masking) -> Result<Catalog, Fault> {
        let mut question = BytesMut::new();
        mask::question(masking, &mut question);
        self.send(&question).await?;
        let mut catalog = Some(Catalog::default());
        loop {
            // Each row counts against the catalog's own bounds, not the login's.
            self.messages = 0;
            let (kind, body) = self.message_of(LONGEST_DESCRIPTION).await?;
            match kind {
                Kind::DataRow => {
                    if let Some(catalog) = &mut catalog {
                        catalog.take(&body);
                    }
                }
                Kind::ErrorResponse if backend::failure(&body).ends_session => return Err(refused(&body)),
                Kind::ErrorResponse => catalog = None,
                Kind::ParameterStatus => self.status(&body)?,
                Kind::ReadyForQuery => return Ok(catalog.unwrap_or_default()),
                _ => {}
            }
        }
    }

    async fn message(&mut self) -> Result<(Kind, Bytes), Fault> {
        self.message_of(LONGEST_MESSAGE).await
    }

    async fn message_of(&mut self, longest: usize) -> Result<(Kind, Bytes), Fault> {
        self.messages += 1;
        if self.messages > MOST_MESSAGES {
            return Err(broke("too many messages before it was ready"));
        }
        loop {
            if let Some(frame) = backend::frame(&self.read).map_err(|error| broke(error.to_string()))? {
                if frame.total > longest {
                    return Err(broke(format!("{:?} of {} bytes", frame.kind, frame.total)));
                }
                if self.read.len() >= frame.total {
                    let whole = self.read.split_to(frame.total).freeze();
                    return Ok((frame.kind, whole.slice(HEADER.min(whole.len())..)));
                }
            }
            if self.io.read_buf(&mut self.read).await.map_err(gone)? == 0 {
                return Err(gone(std::io::ErrorKind::UnexpectedEof.into()));
            }
        }
    }

    fn status(&mut self, body: &Bytes) -> Result<(), Fault> {
        let (name, value) = backend::parameter_status(body).map_err(|error| broke(error.to_string()))?;
        let size: usize = self.statuses.iter().map(|(name, value)| name.len() + value.len()).sum();
        if size + body.len() > MOST_STATUS_BYTES {
            return Err(broke("too many reported settings"));
        }
        let (name, value) = (Bytes::copy_from_slice(name), Bytes::copy_from_slice(value));
        self.statuses.retain(|(known, _)| *known != name);
        self.statuses.push((name, value));
        Ok(())
    }

    /// SCRAM and nothing else: a password in the clear or under MD5 could be read or replayed by whoever
    /// pretends to be the target, and a target that asks for none does not prove itself.
    async fn authenticate(&mut self, scram: Scram) -> Result<(), Fault> {
        let mechanisms = match self.authentication().await? {
            (10, mechanisms) => mechanisms,
            (other, _) => {
                let way = match other {
                    0 => "no password at all",
                    3 => "the password in the clear",
                    5 => "the password under MD5",
                    _ => "a way that is not known here",
                };
                return Err(Fault::upstream(
                    UNPROVEN,
                    format!("it asks for {way}: set scram-sha-256 in its pg_hba.conf"),
                ));
            }
        };
        let unproven = |cause: String| Fault::upstream(UNPROVEN, cause);
        let (mechanism, started) = scram.begin(&mechanisms).map_err(unproven)?;
        let first = started.message().to_vec();
        let length = i32::try_from(first.len()).unwrap_or(i32::MAX).to_be_bytes();
        self.send_password_message(&[mechanism.as_bytes(), b"\0", &length, &first]).await?;
        let challenge = self.authentication_of(11).await?;
        let answered = started.answer(challenge).await.map_err(unproven)?;
        let second = answered.message().to_vec();
        self.send_password_message(&[&second]).await?;
        let last = self.authentication_of(12).await?;
        answered.finish(&last).map_err(unproven)?;
        self.authentication_of(0).await.map(drop)
    }

    async fn authentication(&mut self) -> Result<(i32, Bytes), Fault> {
        let (kind, body) = self.next().await?;
        match (kind, body.first_chunk()) {
            (Kind::Authentication, Some(code)) => Ok((i32::from_be_bytes(*code), body.slice(4..))),
            _ => Err(broke(format!("{kind:?} during authentication"))),
        }
    }

    async fn authentication_of(&mut self, wanted: i32) -> Result<Bytes, Fault> {
        match self.authentication().await? {
            (code, body) if code == wanted => Ok(body),
            (code, _) => Err(broke(format!("authentication message {code} where {wanted} was due"))),
        }
    }

    async fn until_ready(&mut self) -> Result<(), Fault> {
        loop {
            match self.next().await? {
                (Kind::BackendKeyData, body) => {
                    self.key = Some(startup::cancel_key(&body).map_err(|error| broke(error.to_string()))?);
                }
                (Kind::ReadyForQuery, body) if Status::read(&body) == Ok(Status::Idle) => return Ok(()),
                (kind, _) => return Err(broke(format!("{kind:?} before it was ready"))),
            }
        }
    }

    /// A pooler may answer for the server and keep startup parameters to itself: what commands are judged
    /// under is asked for, not assumed.
    async fn verify_settings(&mut self, search_path: &str) -> Result<(), Fault> {
        let mut query = BytesMut::new();
        codec::message(&mut query, b'Q', &[b"SHOW search_path\0"]);
        self.send(&query).await?;
        let mut found = None;
        loop {
            match self.next().await? {
                (Kind::RowDescription | Kind::CommandComplete, _) => {}
                (Kind::DataRow, body) => found = Some(body),
                (Kind::ReadyForQuery, _) => break,
                (kind, _) => return Err(broke(format!("{kind:?} in answer to SHOW"))),
            }
        }
        // One column: a count of two bytes, a length of four, the value.
        let shown = found.as_ref().and_then(|row| row.get(6..)).unwrap_or_default();
        let reported = |name: &str| self.statuses.iter().find(|(known, _)| known == name).map(|(_, value)| &**value);
        let holds = shown == search_path.as_bytes()
            && reported("client_encoding") == Some(b"UTF8")
            && reported("standard_conforming_strings") == Some(b"on");
        if holds {
            return Ok(());
        }
        let shown = String::from_utf8_lossy(shown);
        Err(Fault::upstream(OTHER_MEANING, format!("search_path is {shown}; or encoding or string syntax differ")))
    }
}

fn refused(body: &[u8]) -> Fault {
    let code = backend::failure(body).code;
    let told = match &code {
        b"28P01" | b"28000" => REFUSED,
        b"3D000" | b"42501" => NO_DATABASE,
        b"53300" => NO_ROOM,
        b"57P03" | b"57P01" => NOT_NOW,
        _ => FAILED,
    };
    let message = backend::error_field(body, b'M').unwrap_or_default();
    Fault::upstream(told, format!("{}: {message}", String::from_utf8_lossy(&code)))
}

fn broke(cause: impl Into<String>) -> Fault {
    Fault::upstream(BROKE, cause)
}

fn gone(error: std::io::Error) -> Fault {
    Fault::upstream(GONE, error.to_string())
}

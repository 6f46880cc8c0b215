//! How sessions of PostgreSQL begin: what comes before TLS, the startup message, the login, cancel requests.
//!
//! Owns those phases. Touches the connections it is given and those it opens to the target. Invariants: not a
//! byte is read past a message; what a client may set at startup is listed here and everything else refused.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use sallyport_core::Fault;
use sallyport_core::gate::{GrantedOpening, Way};
use sallyport_core::ports::Io;
use sallyport_core::protocol::{Credential, Hello, LoggedIn, Opening, Preamble, Protocol, TlsFacts};
use sallyport_core::sessions::SessionId;
use sallyport_policy::{Fact, SessionFacts};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::cancel::Registry;
use crate::codec::startup::{self, CancelKey, First, NEWEST_MINOR};
use crate::codec::{CodecError, backend};
use crate::session::{Beginning, Conversation, masks_at_login};
use crate::{login, refuse, settings, sql};

/// The protocol by this name in ALPN (RFC-less, but registered and demanded for direct TLS).
const ALPN: &[u8] = b"postgresql";
/// Bytes of a name that the server keeps (NAMEDATALEN - 1).
const LONGEST_NAME: usize = 63;
/// How often a client may be told "no GSSAPI" before it must ask for TLS.
const MOST_ROUNDS: usize = 2;
/// How long the target may take to act on a cancel request.
const INTERRUPT: Duration = Duration::from_secs(5);
/// Startup parameters that change no meaning: passed on as they are.
const HARMLESS: [&str; 9] = [
    "application_name",
    "bytea_output",
    "datestyle",
    "extra_float_digits",
    "idle_in_transaction_session_timeout",
    "intervalstyle",
    "lock_timeout",
    "statement_timeout",
    "timezone",
];
/// Reported settings under which commands are judged: a change of one ends the session.
const PINNED: [&str; 3] = ["client_encoding", "search_path", "standard_conforming_strings"];

/// The PostgreSQL protocol, for one target.
#[derive(Debug)]
pub struct Postgres {
    /// Of the newest settings; replaced when a bundle brings others.
    fronts: Mutex<Fronts>,
    cancel: Arc<Registry>,
}

/// The fronts for sessions of the same settings: what a name means hangs on the server's version as well.
#[derive(Debug)]
struct Fronts {
    any: Arc<sql::Front>,
    eighteen: Arc<sql::Front>,
}

/// What a client wants of a session, as far as it is passed on.
#[derive(Debug, PartialEq, Eq)]
pub struct Wish {
    /// The minor version its session speaks.
    minor: u16,
    /// Protocol options it asked for and that are not spoken here.
    unknown: Vec<String>,
    /// Whether it must be told the version that is spoken.
    negotiate: bool,
    /// For the target.
    parameters: Vec<(String, String)>,
}

impl Postgres {
    /// The protocol for a target of these settings.
    ///
    /// # Errors
    /// When a setting is unknown or cannot be meant.
    pub fn new(settings: &serde_json::Map<String, serde_json::Value>) -> Result<Self, String> {
        Ok(Self { fronts: Mutex::new(Fronts::new(settings::read(settings)?)), cancel: Arc::default() })
    }

    /// The front for a session with these settings, on such a server. A session keeps the one it began with.
    fn front(&self, names: sql::NameSettings, release: sql::Release) -> Arc<sql::Front> {
        let mut fronts = self.fronts.lock().unwrap_or_else(PoisonError::into_inner);
        if *fronts.any.names() != names {
            *fronts = Fronts::new(names);
        }
        Arc::clone(match release {
            sql::Release::Any => &fronts.any,
            sql::Release::Eighteen => &fronts.eighteen,
        })
    }
}

impl Fronts {
    fn new(names: sql::NameSettings) -> Self {
        let eighteen = Arc::new(sql::Front::new(names.clone().on(sql::Release::Eighteen)));
        Self { any: Arc::new(sql::Front::new(names)), eighteen }
    }
}

impl Protocol for Postgres {
    type Opening = Wish;
    type OutOfBand = CancelKey;
    type Conversation = Conversation;

    async fn preamble<S: Io>(&self, io: &mut S) -> Result<Preamble<CancelKey>, Fault> {
        for _ in 0..MOST_ROUNDS {
            let mut eight = [0; 8];
            io.read_exact(&mut eight).await.map_err(|_| Fault::client("the connection closed before it began"))?;
            match startup::first(eight) {
                Ok(First::TlsRecord) => {
                    return Ok(Preamble::Tls { read: Bytes::copy_from_slice(&eight), direct: true });
                }
                Ok(First::SslRequest) => {
                    say(io, b"S").await?;
                    return Ok(Preamble::Tls { read: Bytes::new(), direct: false });
                }
                Ok(First::GssEncRequest) => say(io, b"N").await?,
                Ok(First::Cancel { rest }) => return Ok(Preamble::OutOfBand(cancel_key(io, rest).await?)),
                Ok(First::Startup { rest, .. }) => {
                    // Read, so that closing does not reset the connection under our answer.
                    let _unused = body(io, rest).await?;
                    return refuse(io, Fault::client(refuse::TLS_REQUIRED)).await;
                }
                Err(_) => return refuse(io, Fault::client("this is no PostgreSQL client, or one too old")).await,
            }
        }
        refuse(io, Fault::client("the client asks for GSSAPI encryption again and again")).await
    }

    async fn hello<S: Io>(&self, io: &mut S, how: TlsFacts<'_>) -> Result<Hello<Wish, CancelKey>, Fault> {
        match how.alpn {
            Some(ALPN) => {}
            None if !how.direct => {}
            _ => return Err(Fault::client("TLS from the first byte needs the ALPN protocol postgresql")),
        }
        let mut eight = [0; 8];
        io.read_exact(&mut eight).await.map_err(|_| Fault::client("the connection closed before a startup message"))?;
        match startup::first(eight).map_err(malformed)? {
            First::Startup { minor, rest } => {
                let body = body(io, rest).await?;
                opening(minor, &startup::parameters(&body).map_err(malformed)?).map(Hello::Open)
            }
            First::Cancel { rest } => Ok(Hello::OutOfBand(cancel_key(io, rest).await?)),
            First::TlsRecord | First::SslRequest | First::GssEncRequest => {
                Err(Fault::client("encryption was asked for inside TLS"))
            }
        }
    }

    async fn login(&self, opening: GrantedOpening<Wish>, session: SessionId) -> Result<LoggedIn<Conversation>, Fault> {
        let names = settings::read(&opening.way().target().settings)
            .map_err(|cause| Fault::internal("this proxy does not understand its target's settings", cause))?;
        let wish = &opening.detail;
        let search_path = names.search_path();
        let masking = opening.masking();
        let asked = masking.filter(|masking| !masking.plan.columns.is_empty()).map(|masking| &**masking);
        let target = login::login(opening.way(), opening.credential(), &wish.parameters, &search_path, asked).await?;
        let version = target.statuses.iter().find(|(name, _)| name == "server_version").map(|(_, version)| version);
        let front = self.front(names, version.map_or(sql::Release::Any, |version| sql::Release::told(version)));
        let registered = self.cancel.register(session, wish.minor);
        let mut greeting = BytesMut::new();
        if wish.negotiate {
            backend::negotiate_protocol_version(&mut greeting, wish.minor, &wish.unknown);
        }
        backend::authentication_ok(&mut greeting);
        for (name, value) in &target.statuses {
            crate::codec::message(&mut greeting, b'S', &[name, b"\0", value, b"\0"]);
        }
        let key = registered.key();
        backend::backend_key_data(&mut greeting, key.pid, &key.secret);
        backend::ready_for_query(&mut greeting, backend::Status::Idle);
        let is_pinned = |name: &Bytes| PINNED.iter().any(|pinned| name == pinned);
        let pinned = target.statuses.iter().filter(|(name, _)| is_pinned(name)).cloned().collect();
        let masks = masking.zip(target.catalog).map(|(masking, catalog)| masks_at_login(masking, catalog, &front));
        let conversation = Conversation::new(Beginning { front, key: target.key, registered, pinned, masks });
        Ok(LoggedIn { upstream: target.io, read: target.read, conversation, greeting: greeting.freeze() })
    }

    fn interrupts(&self, request: &CancelKey) -> Option<SessionId> {
        self.cancel.session(request)
    }

    async fn interrupt(&self, way: Arc<Way>, packet: Bytes) -> Result<(), Fault> {
        let gone = |error: std::io::Error| Fault::upstream("the command could not be interrupted", error.to_string());
        let cancel = async {
            let (mut io, _) = login::connect(&way).await?;
            io.write_all(&packet).await.map_err(gone)?;
            io.flush().await.map_err(gone)?;
            // The server closes once it has passed the request on.
            let mut end = [0; 1];
            let _closed = io.read(&mut end).await;
            Ok(())
        };
        match tokio::time::timeout(INTERRUPT, cancel).await {
            Ok(done) => done,
            Err(_) => Err(gone(std::io::ErrorKind::TimedOut.into())),
        }
    }

    fn refusal(&self, fault: &Fault) -> Bytes {
        refuse::session_refused(fault)
    }
}

/// What a startup message asks for.
fn opening(minor: u16, parameters: &[(&str, &str)]) -> Result<Opening<Wish>, Fault> {
    let mut user = None;
    let mut unknown = Vec::new();
    let mut kept: Vec<(String, String)> = Vec::new();
    let mut facts = Vec::new();
    let mut seen: Vec<String> = Vec::new();
    for (name, value) in parameters {
        let lower = name.to_ascii_lowercase();
        if seen.contains(&lower) {
            return Err(Fault::client(format!("startup parameter {name:?} is given twice")));
        }
        match lower.as_str() {
            "user" => user = Some((*value).to_owned()),
            "database" => {
                facts.push(("database", (*value).to_owned()));
                kept.push((lower.clone(), (*value).to_owned()));
            }
            "client_encoding" if is_utf8(value) => {}
            "client_encoding" => {
                return Err(Fault::client("client_encoding must be UTF8: set PGCLIENTENCODING=UTF8"));
            }
            "standard_conforming_strings" if value.eq_ignore_ascii_case("on") => {}
            harmless if HARMLESS.contains(&harmless) => {
                if harmless == "application_name" {
                    facts.push(("application", (*value).to_owned()));
                }
                kept.push((lower.clone(), (*value).to_owned()));
            }
            option if option.starts_with("_pq_.") => unknown.push((*name).to_owned()),
            _ => {
                let name: String = name.chars().take(64).collect();
                return Err(Fault::client(format!("startup parameter {name:?} is not let through: leave it out")));
            }
        }
        seen.push(lower);
    }
    let user = user.filter(|user| !user.is_empty());
    let user = user.ok_or_else(|| Fault::client("the startup message names no user: name a credential"))?;
    if !seen.iter().any(|name| name == "application_name") {
        kept.push(("application_name".to_owned(), "sallyport".to_owned()));
    }
    let negotiate = minor > NEWEST_MINOR || !unknown.is_empty();
    let detail = Wish { minor: minor.min(NEWEST_MINOR), unknown, negotiate, parameters: kept };
    let named = |wanted: &str| facts.iter().find(|(name, _)| *name == wanted).map(|(_, value)| value.as_str());
    let known = session_facts(named("database"), named("application"));
    Ok(Opening { credential: Credential::User(user), facts, known, detail })
}

/// What is certain of a session whose client named that database and called itself that. The server cuts longer names
/// off, and without a database it takes the one of the credential's user, which is not known here.
#[must_use]
pub fn session_facts(database: Option<&str>, application_name: Option<&str>) -> SessionFacts {
    let known = |name: &str| if name.len() <= LONGEST_NAME { Fact::Known(name.to_owned()) } else { Fact::Unknown };
    SessionFacts {
        database: database.filter(|name| !name.is_empty()).map_or(Fact::Unknown, known),
        // One that says nothing calls itself nothing.
        application_name: known(application_name.unwrap_or_default()),
        started: Fact::Unknown,
    }
}

/// The ways in which clients spell UTF-8.
fn is_utf8(value: &str) -> bool {
    let letters: String = value.chars().filter(char::is_ascii_alphanumeric).collect();
    letters.eq_ignore_ascii_case("utf8") || letters.eq_ignore_ascii_case("unicode")
}

async fn cancel_key<S: Io>(io: &mut S, rest: usize) -> Result<CancelKey, Fault> {
    startup::cancel_key(&body(io, rest).await?).map_err(malformed)
}

/// The rest of a message whose length was checked.
async fn body<S: Io>(io: &mut S, rest: usize) -> Result<Vec<u8>, Fault> {
    let mut body = vec![0; rest];
    io.read_exact(&mut body).await.map_err(|_| Fault::client("the connection closed in a startup message"))?;
    Ok(body)
}

async fn say<S: Io>(io: &mut S, bytes: &[u8]) -> Result<(), Fault> {
    let said = async {
        io.write_all(bytes).await?;
        io.flush().await
    };
    said.await.map_err(|_: std::io::Error| Fault::client("the connection closed before it began"))
}

/// Tells the client in the clear and gives the fault back. That nobody reads it does not matter.
async fn refuse<S: Io, T>(io: &mut S, fault: Fault) -> Result<T, Fault> {
    let _told = say(io, &refuse::session_refused(&fault)).await;
    Err(fault)
}

fn malformed(error: CodecError) -> Fault {
    Fault::client(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_session_only_that_is_known_which_the_server_takes_as_it_is() {
        let known = |parameters: &[(&str, &str)]| {
            let facts = opening(NEWEST_MINOR, &[&[("user", "default")], parameters].concat()).unwrap().known;
            assert_eq!(facts.started, Fact::Unknown);
            (facts.database, facts.application_name)
        };
        let is = |text: &str| Fact::Known(text.to_owned());
        assert_eq!(known(&[]), (Fact::Unknown, is("")));
        assert_eq!(known(&[("database", "shop"), ("application_name", "psql")]), (is("shop"), is("psql")));
        // The server takes the user's name for it.
        assert_eq!(known(&[("database", "")]).0, Fact::Unknown);
        // And cuts off what is longer.
        let long = "x".repeat(64);
        assert_eq!(known(&[("database", &long), ("application_name", &long)]), (Fact::Unknown, Fact::Unknown));
        let fits = "x".repeat(63);
        assert_eq!(known(&[("database", &fits), ("application_name", &fits)]), (is(&fits), is(&fits)));
    }
}

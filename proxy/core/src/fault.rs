//! What can go wrong with a session, sorted by who is to blame.
//!
//! Owns that sorting: it decides wire answer, log level and metric label in one place. Touches nothing.
//! Invariant: what the client is told and what is logged are two texts; the first never holds a detail of
//! the target's side.

use std::borrow::Cow;

use sallyport_policy::Denial;

/// Why a session, or an attempt at one, ended or was refused.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// The peer did not speak the protocol, or not in time.
    #[error("client: {0}")]
    Client(Cow<'static, str>),
    /// Policy said no.
    #[error("policy: {0}")]
    Policy(Denial),
    /// The target could not be reached, did not authenticate us, or broke the protocol. The text is for
    /// the log; the client reads `told`.
    #[error("upstream: {logged}")]
    Upstream {
        /// For the agent: no address, no user name of the target.
        told: Cow<'static, str>,
        /// For the operator's eyes.
        logged: String,
    },
    /// Our own: no bundle yet, no credential mounted.
    #[error("internal: {logged}")]
    Internal {
        /// For the agent.
        told: Cow<'static, str>,
        /// For the operator's eyes.
        logged: String,
    },
}

impl Fault {
    /// The peer's fault.
    pub fn client(cause: impl Into<Cow<'static, str>>) -> Self {
        Self::Client(cause.into())
    }

    /// The target's fault.
    pub fn upstream(told: impl Into<Cow<'static, str>>, logged: impl Into<String>) -> Self {
        Self::Upstream { told: told.into(), logged: logged.into() }
    }

    /// Our own fault.
    pub fn internal(told: impl Into<Cow<'static, str>>, logged: impl Into<String>) -> Self {
        Self::Internal { told: told.into(), logged: logged.into() }
    }

    /// What the client is told.
    #[must_use]
    pub fn told(&self) -> Cow<'_, str> {
        match self {
            Self::Client(cause) => Cow::Borrowed(cause),
            Self::Policy(denial) => Cow::Owned(denial.to_string()),
            Self::Upstream { told, .. } | Self::Internal { told, .. } => Cow::Borrowed(told),
        }
    }

    /// Who is to blame, as a metric label.
    #[must_use]
    pub const fn blame(&self) -> &'static str {
        match self {
            Self::Client(_) => "client",
            Self::Policy(denial) if denial.is_our_own() => "internal",
            Self::Policy(_) => "policy",
            Self::Upstream { .. } => "upstream",
            Self::Internal { .. } => "internal",
        }
    }
}

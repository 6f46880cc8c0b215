//! What can go wrong outside the pure half, and when to try again.
//!
//! Owns that list: retry is a property of the error. Touches nothing. Invariant: no fault ends the
//! process or touches another object.

use std::time::Duration;

/// Why a reconcile did not finish.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    /// The API server refused or did not answer.
    #[error("the API server: {0}")]
    Api(#[from] kube::Error),
    /// It took too long.
    #[error("it took longer than {0:?}")]
    Deadline(Duration),
    /// No certificate could be made.
    #[error(transparent)]
    Issue(#[from] crate::issue::leaf::IssueError),
    /// An object could not be written down: a defect.
    #[error("an object could not be serialised: {0}")]
    Form(#[from] serde_json::Error),
}

impl Fault {
    /// How long to wait before the next try, after `failures` in a row.
    #[must_use]
    pub(crate) fn pause(&self, failures: u32) -> Duration {
        let (first, longest) = match self {
            // Somebody wrote at the same time: read again and go on.
            Self::Api(kube::Error::Api(status)) if status.is_conflict() => (50, 5_000),
            // Waits for an edit of the object, or of our rights; looked at again in case that was not seen.
            Self::Api(kube::Error::Api(status)) if status.is_forbidden() || status.is_invalid() => (10_000, 120_000),
            Self::Api(_) | Self::Deadline(_) => (500, 30_000),
            Self::Issue(_) | Self::Form(_) => (60_000, 300_000),
        };
        let doubled = Duration::from_millis(first) * 2_u32.saturating_pow(failures.min(10));
        // Up to a fifth more, so that what failed together does not come back together.
        let jitter = 1.0 + rand::random::<f64>() / 5.0;
        doubled.min(Duration::from_millis(longest)).mul_f64(jitter)
    }

    /// A word for the metric.
    #[must_use]
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::Api(kube::Error::Api(status)) if status.is_conflict() => "conflict",
            Self::Api(kube::Error::Api(status)) if status.is_forbidden() => "forbidden",
            Self::Api(_) => "api",
            Self::Deadline(_) => "deadline",
            Self::Issue(_) => "issue",
            Self::Form(_) => "form",
        }
    }
}

//! What can go wrong outside the pure half, and when to try again.
//!
//! Owns that list: retry is a property of the error. Touches nothing. Invariant: no fault ends the
//! process or touches another object.

use std::time::Duration;

use sallyport_crds::conditions::reason;

use crate::derive::rotation::Refusal;

/// Why a reconcile did not finish.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    /// The API server refused or did not answer.
    #[error("the API server: {0}")]
    Api(#[from] kube::Error),
    /// It took too long.
    #[error("it took longer than {0:?}")]
    Deadline(Duration),
    /// What was looked at changed before it could be written.
    #[error("the Secret changed meanwhile")]
    Meanwhile,
    /// A certificate that is due could not be written, and that was told.
    #[error("the certificate's Secret could not be written: {source}")]
    Stuck {
        /// Why.
        source: Box<Fault>,
        /// The longest pause between two tries.
        longest: Duration,
    },
    /// No certificate could be made.
    #[error(transparent)]
    Issue(#[from] crate::issue::leaf::IssueError),
    /// No authority could be made, or what is written down of it cannot be read.
    #[error(transparent)]
    Authority(#[from] crate::issue::AuthorityError),
    /// An object could not be written down: a defect.
    #[error("an object could not be serialised: {0}")]
    Form(#[from] serde_json::Error),
}

impl Fault {
    /// How long to wait before the next try, after `failures` in a row.
    #[must_use]
    pub(crate) fn pause(&self, failures: u32) -> Duration {
        let (first, longest) = self.steps();
        let doubled = Duration::from_millis(first) * 2_u32.saturating_pow(failures.min(10));
        // Up to a fifth more, so that what failed together does not come back together.
        let jitter = 1.0 + rand::random::<f64>() / 5.0;
        doubled.min(Duration::from_millis(longest)).mul_f64(jitter)
    }

    /// The first pause and the longest, in milliseconds.
    fn steps(&self) -> (u64, u64) {
        match self {
            Self::Meanwhile => (50, 5_000),
            Self::Stuck { source, longest } => {
                (source.steps().0, u64::try_from(longest.as_millis()).unwrap_or(u64::MAX))
            }
            // Somebody wrote at the same time: read again and go on.
            Self::Api(kube::Error::Api(status)) if status.is_conflict() => (50, 5_000),
            // Waits for an edit of the object, or of our rights; looked at again in case that was not seen.
            Self::Api(kube::Error::Api(status)) if status.is_forbidden() || status.is_invalid() => (10_000, 120_000),
            Self::Api(_) | Self::Deadline(_) | Self::Authority(_) => (500, 30_000),
            Self::Issue(_) | Self::Form(_) => (60_000, 300_000),
        }
    }

    /// What to tell when this kept a certificate from being written; nothing while another try may well succeed.
    #[must_use]
    pub(crate) fn refusal(&self, failures: u32) -> Option<Refusal> {
        let cut = |text: &str| text.chars().take(400).collect::<String>();
        match self {
            Self::Api(kube::Error::Api(status))
                if (400..500).contains(&status.code) && !matches!(status.code, 404 | 409 | 429) =>
            {
                let said = cut(&status.message);
                let message = format!("the API server refuses the certificate's Secret: {said}");
                Some(Refusal { reason: reason::WRITE_REFUSED, message, said })
            }
            fault if failures >= 2 => {
                let said = match fault {
                    Self::Api(kube::Error::Api(status)) => cut(&status.message),
                    fault => cut(&fault.to_string()),
                };
                let message = format!("the certificate's Secret cannot be written: {said}");
                Some(Refusal { reason: reason::WRITE_FAILED, message, said })
            }
            _ => None,
        }
    }

    /// A word for the metric.
    #[must_use]
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::Api(kube::Error::Api(status)) if status.is_conflict() => "conflict",
            Self::Api(kube::Error::Api(status)) if status.is_forbidden() => "forbidden",
            Self::Api(_) => "api",
            Self::Meanwhile => "conflict",
            Self::Stuck { source, .. } => source.label(),
            Self::Deadline(_) => "deadline",
            Self::Issue(_) => "issue",
            Self::Authority(_) => "authority",
            Self::Form(_) => "form",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(code: u16, message: &str) -> Fault {
        Fault::Api(kube::Error::Api(
            kube::core::Status::failure(message, if code == 403 { "Forbidden" } else { "" }).with_code(code).boxed(),
        ))
    }

    #[test]
    fn a_refusal_is_told_at_once_and_what_may_pass_after_two_tries() {
        for code in [400, 403, 413, 422] {
            let told = answer(code, "exceeded quota").refusal(0).unwrap();
            assert!(told.reason == reason::WRITE_REFUSED && told.message.contains("exceeded quota"), "{told:?}");
        }
        for code in [404, 409, 429, 500, 503] {
            assert_eq!(answer(code, "busy").refusal(1), None, "{code}");
            assert_eq!(answer(code, "busy").refusal(2).unwrap().reason, reason::WRITE_FAILED);
        }
        let long = answer(403, &"x".repeat(5000)).refusal(0).unwrap();
        assert!(long.message.len() < 600);
    }

    #[test]
    fn tries_are_bounded_from_both_sides() {
        for (failures, least, most) in [(0, 10, 13), (3, 80, 97), (5, 300, 361), (u32::MAX, 300, 361)] {
            let stuck = Fault::Stuck { source: Box::new(answer(403, "quota")), longest: Duration::from_secs(300) };
            let pause = stuck.pause(failures).as_secs();
            assert!((least..most).contains(&pause), "{failures} failures: {pause} s");
        }
    }
}

//! `verify`: whether recordings are what was written.
//!
//! Owns where recordings and anchors come from. Touches the cluster or files. Invariant: the check is the proxy's own,
//! run here, on bytes that were copied here: the pod that kept them is not asked whether they are sound.

use std::io::Write;

use anyhow::Context;
use sallyport_proxy::verify_against;

use crate::Answer;
use crate::arguments::{Reach, VerifyArguments};
use crate::cluster::Cluster;
use crate::recordings::Recordings;
use crate::source;

/// Answers `sallyport verify`.
pub(crate) async fn run(reach: &Reach, arguments: &VerifyArguments, out: &mut impl Write) -> anyhow::Result<Answer> {
    // The anchor first: what is recorded after it was read is more, never less.
    let anchor = match (&arguments.anchor, &arguments.from.target) {
        (Some(path), _) => {
            let text = source::text_of(path)?;
            let no_json = || format!("--anchor {}: no JSON: pass kubectl get target NAME -o json", path.display());
            Some(serde_json::from_str(&text).with_context(no_json)?)
        }
        (None, Some(target)) => Some(Cluster::reach(reach).await?.target_as_json(target).await?),
        (None, None) => None,
    };
    let recordings = Recordings::of(reach, &arguments.from).await?;
    let holds = verify_against(recordings.directory(), anchor.as_ref(), out)?;
    Ok(if holds { Answer::Yes } else { Answer::No })
}

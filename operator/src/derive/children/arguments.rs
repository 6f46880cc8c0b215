//! How the proxy is called: every flag and every path in one place.
//!
//! Owns that list; the proxy's own command line implements the same. Touches nothing. Invariant: no
//! secret is in it, all come as files.

use kube::ResourceExt;
use sallyport_crds::ProtectedTarget;

use super::super::recording;

/// Port of health, readiness and metrics.
pub(super) const ADMIN_PORT: u16 = 9090;
/// Port agents are served on inside the pod (the Service's own may differ).
pub(super) const PROXY_PORT: u16 = 5432;
/// `tls.crt` and `tls.key` of the fleet, `ca.crt` of the agents' trust domain.
pub(super) const TLS_DIR: &str = "/etc/sallyport/tls";
/// One directory a credential, with `username` and `password`.
pub(super) const CREDENTIALS_DIR: &str = "/etc/sallyport/credentials";
/// Where the key of masks stands among the credentials; no credential can have a name with a dot.
pub(super) const MASK_KEY_DIR: &str = "/etc/sallyport/credentials/mask.key";
/// Holds `ca.crt`: the CAs the target's certificate must come from.
pub(super) const UPSTREAM_CA_DIR: &str = "/etc/sallyport/upstream-ca";
/// `credential/username` and `credential/password` of the store for recordings.
pub(super) const STORE_DIR: &str = "/etc/sallyport/store";
/// Holds `ca.crt`: the CAs that the store's certificate must come from.
pub(super) const STORE_CA_DIR: &str = "/etc/sallyport/store-ca";
/// The records.
pub(super) const RECORDS_DIR: &str = "/var/lib/sallyport/records";
/// Last known good bundle and roster.
pub(super) const STATE_DIR: &str = "/var/lib/sallyport/state";

/// The proxy's arguments.
pub(super) fn arguments(target: &ProtectedTarget) -> Vec<String> {
    let mut flags = vec![
        ("target-namespace", target.namespace().unwrap_or_default()),
        ("target-name", target.name_any()),
        // Expanded by the kubelet, from the environment variable of that name.
        ("pod-name", "$(POD_NAME)".to_owned()),
        ("listen", format!("0.0.0.0:{PROXY_PORT}")),
        ("admin", format!("0.0.0.0:{ADMIN_PORT}")),
        ("tls-dir", TLS_DIR.to_owned()),
        ("credentials-dir", CREDENTIALS_DIR.to_owned()),
        ("records-dir", RECORDS_DIR.to_owned()),
        ("state-dir", STATE_DIR.to_owned()),
    ];
    if target.spec.tls.ca_bundle_ref.is_some() {
        flags.push(("upstream-ca", format!("{UPSTREAM_CA_DIR}/ca.crt")));
    }
    let store = &target.spec.recording.store;
    // A size that is none is no target's that is accepted.
    if let Ok(Some(room)) = recording::room(store) {
        flags.push(("records-room", room.to_string()));
    }
    if let Some(s3) = &store.s3 {
        flags.push(("store-dir", STORE_DIR.to_owned()));
        if s3.ca_bundle_ref.is_some() {
            flags.push(("store-ca", format!("{STORE_CA_DIR}/ca.crt")));
        }
    }
    let flags = flags.into_iter().map(|(flag, value)| format!("--{flag}={value}"));
    std::iter::once("serve".to_owned()).chain(flags).collect()
}

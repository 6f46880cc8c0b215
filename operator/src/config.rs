//! The operator's configuration: flags and environment, read once.
//!
//! Owns that reading. Touches arguments and environment (through clap), nothing after. Invariant: every
//! error is told at once, and nothing missing is replaced by something weaker.

use std::net::SocketAddr;

use clap::Parser;
use sallyport_policy::IdentityName;

use crate::derive::Settings;

/// Turns Sallyport's objects into certificates, proxy fleets and statuses.
#[derive(Debug, Clone, Parser)]
#[command(name = "sallyport-operator", version)]
pub struct Arguments {
    /// The trust domain that identities are named in.
    #[arg(long, env = "SALLYPORT_TRUST_DOMAIN", default_value = "cluster.local")]
    pub trust_domain: String,
    /// The cluster's DNS domain.
    #[arg(long, env = "SALLYPORT_CLUSTER_DOMAIN", default_value = "cluster.local")]
    pub cluster_domain: String,
    /// The Secret (kubernetes.io/tls) of the trust domain's CA, in the operator's namespace; made if absent.
    #[arg(long, env = "SALLYPORT_CA_SECRET", default_value = "sallyport-ca")]
    pub ca_secret: String,
    /// The namespace the operator runs in: of the CA's Secret and the lease.
    #[arg(long, env = "POD_NAMESPACE", default_value = "")]
    pub namespace: String,
    /// A name for this process in the lease; the pod's.
    #[arg(long, env = "POD_NAME", default_value = "")]
    pub pod_name: String,
    /// The image that fleets run.
    #[arg(long, env = "SALLYPORT_PROXY_IMAGE", default_value = "")]
    pub proxy_image: String,
    /// Whether to wait for the lease before acting; false where there is only ever one operator.
    #[arg(long, env = "SALLYPORT_LEADER_ELECT", default_value = "true")]
    pub leader_elect: String,
    /// Where health, readiness and metrics are served.
    #[arg(long, env = "SALLYPORT_ADMIN", default_value = "0.0.0.0:9090")]
    pub admin: String,
    /// What is logged, as in RUST_LOG.
    #[arg(long, env = "SALLYPORT_LOG", default_value = "info")]
    pub log: String,
}

/// The configuration in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// What plans depend on.
    pub settings: Settings,
    /// Name of the CA's Secret.
    pub ca_secret: String,
    /// The operator's namespace.
    pub namespace: String,
    /// The holder named in the lease; nothing when no lease is taken.
    pub lease_holder: Option<String>,
    /// Where health, readiness and metrics are served; nothing when they are not.
    pub admin: Option<SocketAddr>,
}

/// Everything that is wrong with the arguments.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the configuration cannot be used:\n  - {}", .0.join("\n  - "))]
pub struct ConfigErrors(pub Vec<String>);

impl Config {
    /// Resolves the arguments.
    ///
    /// # Errors
    /// With all that is wrong, not just the first.
    pub fn resolve(arguments: &Arguments) -> Result<Self, ConfigErrors> {
        let mut wrong = Vec::new();
        let is_domain = |text: &str| IdentityName::new(text, "n", "a").is_ok();
        let mut check = |holds: bool, sentence: String| {
            if !holds {
                wrong.push(sentence);
            }
        };
        let given = arguments;
        check(is_domain(&given.trust_domain), format!("--trust-domain: {:?} is no DNS name", given.trust_domain));
        check(is_domain(&given.cluster_domain), format!("--cluster-domain: {:?} is no DNS name", given.cluster_domain));
        check(is_domain(&given.ca_secret), format!("--ca-secret: {:?} is no name of a Secret", given.ca_secret));
        check(
            is_domain(&given.namespace) && !given.namespace.contains('.'),
            format!("--namespace (or POD_NAMESPACE): {:?} is no namespace", given.namespace),
        );
        let image = &given.proxy_image;
        check(
            !image.is_empty() && !image.contains(char::is_whitespace),
            format!("--proxy-image (or SALLYPORT_PROXY_IMAGE): {image:?} is no image"),
        );
        let admin: Result<SocketAddr, _> = given.admin.parse();
        check(admin.is_ok(), format!("--admin: {:?} is no address and port", given.admin));
        let elect: Result<bool, _> = given.leader_elect.parse();
        check(elect.is_ok(), format!("--leader-elect: {:?} is neither true nor false", given.leader_elect));
        let filter = tracing_subscriber::EnvFilter::try_new(&given.log);
        check(
            filter.is_ok(),
            format!("--log: {:?} is no filter such as info or info,sallyport_operator=debug", given.log),
        );
        let (Ok(admin), Ok(elect), true) = (admin, elect, wrong.is_empty()) else { return Err(ConfigErrors(wrong)) };

        // Two processes never share a holder's name, whatever their pods are called.
        let holder = || format!("{}_{:016x}", given.pod_name, rand::random::<u64>());
        Ok(Self {
            settings: Settings {
                trust_domain: given.trust_domain.clone(),
                cluster_domain: given.cluster_domain.clone(),
                proxy_image: given.proxy_image.clone(),
                // It is known once this process leads.
                since: k8s_openapi::jiff::Timestamp::MIN,
            },
            ca_secret: given.ca_secret.clone(),
            namespace: given.namespace.clone(),
            lease_holder: elect.then(holder),
            admin: Some(admin),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_error_is_told_at_once() {
        let arguments = Arguments::try_parse_from([
            "sallyport-operator",
            "--trust-domain=Not A Domain",
            "--namespace=a.b",
            "--admin=nowhere",
            "--leader-elect=maybe",
            "--log=[",
        ]);
        let errors = Config::resolve(&arguments.unwrap()).unwrap_err().0;
        for flag in ["--trust-domain", "--namespace", "--proxy-image", "--admin", "--leader-elect", "--log"] {
            assert!(errors.iter().any(|error| error.starts_with(flag)), "{flag} in {errors:?}");
        }
    }

    #[test]
    fn the_defaults_need_a_namespace_and_an_image() {
        let given = ["sallyport-operator", "--namespace=sallyport-system", "--proxy-image=sallyport-proxy:dev"];
        let config = Config::resolve(&Arguments::try_parse_from(given).unwrap()).unwrap();
        assert_eq!(config.settings.trust_domain, "cluster.local");
        assert!(config.lease_holder.is_some());
    }
}

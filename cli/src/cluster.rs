//! The cluster, with the rights of whoever asks.
//!
//! Owns every request to the API server. Touches it, and reads the kubeconfig. Invariants: each request has a deadline;
//! an error says what was wanted, where, and which right or object is missing.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use k8s_openapi::api::authentication::v1::SelfSubjectReview;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kube::api::{AttachParams, ListParams, Patch, PatchParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, ResourceExt};
use sallyport_crds::{AccessPolicy, AccessRequest, AgentIdentity, Answer, Decision, ProtectedTarget};
use sallyport_policy::{Bundle, Member};
use sallyport_proxy::{member, receive_recordings, shown};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use crate::arguments::Reach;

/// Key of the bundle in its ConfigMap.
const KEY: &str = "bundle.json";
/// How long one request may take.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long a replica may take to send its recordings.
const COPYING: Duration = Duration::from_secs(3600);
/// Bytes of what a replica complains that are shown.
const COMPLAINT: u64 = 2000;
/// The container of a fleet's pod.
const CONTAINER: &str = "proxy";
/// The label of a fleet's pods.
const TARGET: &str = "sallyport.dev/target";

/// A cluster, and the namespace that is meant in it.
pub(crate) struct Cluster {
    client: Client,
    namespace: String,
}

impl Cluster {
    /// Reads how to reach the cluster.
    pub(crate) async fn reach(reach: &Reach) -> anyhow::Result<Self> {
        let options = KubeConfigOptions { context: reach.context.clone(), ..KubeConfigOptions::default() };
        let mut config = match (&reach.kubeconfig, &reach.context) {
            (Some(path), _) => {
                let read = Kubeconfig::read_from(path).with_context(|| format!("--kubeconfig {}", path.display()))?;
                kube::Config::from_custom_kubeconfig(read, &options).await?
            }
            (None, Some(_)) => kube::Config::from_kubeconfig(&options).await?,
            (None, None) => {
                kube::Config::infer().await.context("no way to a cluster: set KUBECONFIG, or give --kubeconfig")?
            }
        };
        config.connect_timeout = Some(Duration::from_secs(5));
        config.default_retry = false;
        let namespace = reach.namespace.clone().unwrap_or_else(|| config.default_namespace.clone());
        let client = Client::try_from(config)?;
        Ok(Self { client, namespace })
    }

    /// The namespace that is meant.
    pub(crate) fn namespace(&self) -> &str {
        &self.namespace
    }

    /// What the fleet of that target enforces.
    pub(crate) async fn bundle(&self, target: &str) -> anyhow::Result<Bundle> {
        let name = format!("{target}-bundle");
        let maps: Api<ConfigMap> = Api::namespaced(self.client.clone(), &self.namespace);
        let what = format!("the bundle of target {target}: ConfigMap {}/{name}", self.namespace);
        let map = asked(&what, maps.get_opt(&name)).await?;
        let Some(map) = map else {
            bail!(
                "{what}: there is none: is {target} a ProtectedTarget of namespace {}, and is it accepted? (kubectl get target -n {} {target})",
                self.namespace,
                self.namespace
            );
        };
        let json =
            map.data.as_ref().and_then(|data| data.get(KEY)).with_context(|| format!("{what} has no key {KEY}"))?;
        Bundle::read(json).with_context(|| what)
    }

    /// What fleets know of that identity; none where there is none.
    pub(crate) async fn member(&self, namespace: &str, name: &str) -> anyhow::Result<Option<Member>> {
        let identities: Api<AgentIdentity> = Api::namespaced(self.client.clone(), namespace);
        let what = format!("AgentIdentity {namespace}/{name}");
        let found = asked(&what, identities.get_opt(name)).await?;
        Ok(found.map(|identity| member(&identity.namespace().unwrap_or_default(), &identity)))
    }

    /// What fleets know of the identities of a namespace.
    pub(crate) async fn members(&self, namespace: &str) -> anyhow::Result<Vec<Member>> {
        let identities: Api<AgentIdentity> = Api::namespaced(self.client.clone(), namespace);
        let what = format!("the AgentIdentities of namespace {namespace}");
        let found = asked(&what, identities.list(&ListParams::default())).await?;
        Ok(found.items.iter().map(|identity| member(namespace, identity)).collect())
    }

    /// Asks the API server whether it would take a policy, which changes nothing. A note where it may not be asked.
    pub(crate) async fn would_take(&self, policy: &AccessPolicy) -> anyhow::Result<Option<String>> {
        let name = policy.name_any();
        let object = json!({
            "apiVersion": "sallyport.dev/v1alpha1", "kind": "AccessPolicy",
            "metadata": { "name": name, "namespace": self.namespace }, "spec": policy.spec,
        });
        let policies: Api<AccessPolicy> = Api::namespaced(self.client.clone(), &self.namespace);
        let how = PatchParams::apply("sallyport-preview").dry_run().force();
        match timeout(PATIENCE, policies.patch(&name, &how, &Patch::Apply(object))).await {
            Ok(Ok(_)) => Ok(None),
            Ok(Err(kube::Error::Api(status))) if status.is_forbidden() => Ok(Some(format!(
                "{name}: whether the API server would take it was not asked, for that needs the right to patch AccessPolicies"
            ))),
            Ok(Err(kube::Error::Api(status))) => {
                bail!("AccessPolicy {name}: the API server would not take it: {}", shown(&status.message))
            }
            Ok(Err(error)) => Err(error).with_context(|| format!("AccessPolicy {name}")),
            Err(_) => bail!("AccessPolicy {name}: the API server has not answered for {} s", PATIENCE.as_secs()),
        }
    }

    /// The questions to people.
    pub(crate) async fn requests(&self, everywhere: bool) -> anyhow::Result<Vec<AccessRequest>> {
        let (requests, place) = if everywhere {
            (Api::all(self.client.clone()), "all namespaces".to_owned())
        } else {
            (Api::namespaced(self.client.clone(), &self.namespace), format!("namespace {}", self.namespace))
        };
        let found = asked(&format!("the AccessRequests of {place}"), requests.list(&ListParams::default())).await?;
        Ok(found.items)
    }

    /// One question.
    pub(crate) async fn request(&self, name: &str) -> anyhow::Result<AccessRequest> {
        let requests: Api<AccessRequest> = Api::namespaced(self.client.clone(), &self.namespace);
        let what = format!("AccessRequest {}/{name}", self.namespace);
        let found = asked(&what, requests.get_opt(name)).await?;
        found.with_context(|| format!("{what}: there is none: see sallyport requests --all-namespaces"))
    }

    /// Under which name the API server knows whoever asks.
    pub(crate) async fn own_name(&self) -> anyhow::Result<String> {
        let reviews: Api<SelfSubjectReview> = Api::all(self.client.clone());
        let asking = SelfSubjectReview::default();
        let review = asked("your own user name", reviews.create(&PostParams::default(), &asking)).await?;
        let user = review.status.and_then(|status| status.user_info).and_then(|user| user.username);
        user.context("the API server does not say under which name it knows you")
    }

    /// Writes an answer beside those that `request` had when it was shown; where it has others now, nothing is written.
    pub(crate) async fn decide(
        &self,
        mut request: AccessRequest,
        by: &str,
        decision: Answer,
        comment: Option<&str>,
    ) -> anyhow::Result<()> {
        let name = request.name_any();
        let at = Time(jiff::Timestamp::from_second(jiff::Timestamp::now().as_second())?);
        let decision = Decision { decision, by: by.to_owned(), at, comment: comment.map(str::to_owned) };
        request.status.get_or_insert_default().decisions.push(decision);
        let requests: Api<AccessRequest> = Api::namespaced(self.client.clone(), &self.namespace);
        let what = format!("the answer to AccessRequest {}/{name}", self.namespace);
        let written = timeout(PATIENCE, requests.replace_status(&name, &PostParams::default(), &request)).await;
        match written {
            Ok(Ok(_)) => Ok(()),
            // It has the resource version of what was shown.
            Ok(Err(kube::Error::Api(status))) if status.is_conflict() => {
                bail!("{what} was not written: the question has changed since it was shown: look again")
            }
            Ok(Err(kube::Error::Api(status))) => {
                bail!("{what} was not written: the API server refuses it: {}", shown(&status.message))
            }
            Ok(Err(error)) => Err(error).with_context(|| what),
            Err(_) => {
                bail!("{what}: the API server has not answered for {} s: look whether it stands", PATIENCE.as_secs())
            }
        }
    }

    /// The target, whose status has the anchors of its recordings.
    pub(crate) async fn target_as_json(&self, target: &str) -> anyhow::Result<Value> {
        let targets: Api<ProtectedTarget> = Api::namespaced(self.client.clone(), &self.namespace);
        let what = format!("ProtectedTarget {}/{target}", self.namespace);
        Ok(serde_json::to_value(asked(&what, targets.get(target)).await?)?)
    }

    /// The running pods of a target's fleet, by name.
    pub(crate) async fn replicas(&self, target: &str) -> anyhow::Result<Vec<String>> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        let what = format!("the pods of target {target} in namespace {}", self.namespace);
        let wanted = ListParams::default().labels(&format!("{TARGET}={target}"));
        let found = asked(&what, pods.list(&wanted)).await?;
        let runs = |pod: &Pod| pod.status.as_ref().and_then(|status| status.phase.as_deref()) == Some("Running");
        let mut names: Vec<_> = found.items.iter().filter(|pod| runs(pod)).map(ResourceExt::name_any).collect();
        names.sort();
        Ok(names)
    }

    /// Copies the recordings of a replica into a directory; how many files they are.
    pub(crate) async fn copy_recordings(&self, pod: &str, to: &Path) -> anyhow::Result<u64> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        let what =
            format!("the recordings of pod {}/{pod} (kubectl exec {pod} -- /sallyport-proxy copy)", self.namespace);
        let how = AttachParams::default().container(CONTAINER).stdout(true).stderr(true).stdin(false);
        let mut process = asked(&what, pods.exec(pod, ["/sallyport-proxy", "copy"], &how)).await?;
        let (Some(stdout), Some(stderr)) = (process.stdout(), process.stderr()) else { bail!("{what}: no pipe") };
        let mut complaint = Vec::new();
        let mut stderr = stderr.take(COMPLAINT);
        let both = async { tokio::join!(receive_recordings(stdout, to), stderr.read_to_end(&mut complaint)) };
        let Ok((received, _)) = timeout(COPYING, both).await else {
            bail!("{what}: not done after {} s", COPYING.as_secs());
        };
        received.with_context(|| {
            let complaint = String::from_utf8_lossy(&complaint);
            if complaint.trim().is_empty() { what } else { format!("{what}: it says: {}", shown(complaint.trim())) }
        })
    }
}

/// The answer to one request, in time.
async fn asked<T>(what: &str, request: impl Future<Output = kube::Result<T>>) -> anyhow::Result<T> {
    match timeout(PATIENCE, request).await {
        Ok(answer) => answer.with_context(|| what.to_owned()),
        Err(_) => bail!("{what}: the API server has not answered for {} s", PATIENCE.as_secs()),
    }
}

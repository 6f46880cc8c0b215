//! The fleet's Deployment: restricted, spread, replaced one by one.
//!
//! Owns the pod's shape and its volumes. Touches nothing. Invariant: a replica mounts what its target
//! names and has no other way to a secret; without the CA bundle that the target demands there is no
//! Deployment, nor without the credential of the store that its records are to go to.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment};
use k8s_openapi::api::core::v1::{
    Capabilities, ConfigMapVolumeSource, Container, ContainerPort, EmptyDirVolumeSource, EnvVar, EnvVarSource,
    HTTPGetAction, KeyToPath, Lifecycle, LifecycleHandler, ObjectFieldSelector, PersistentVolumeClaimVolumeSource,
    PodSecurityContext, PodSpec, PodTemplateSpec, Probe, ResourceRequirements, SeccompProfile, SecretVolumeSource,
    SecurityContext, SleepAction, TopologySpreadConstraint, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;
use sallyport_crds::{BundleSourceKind, CaBundleRef, ProtectedTarget, Resources};

use super::super::refs::{self, Reference, References};
use super::super::{Settings, names};
use super::{Child, arguments};

/// The user and group of the image.
const NON_ROOT: i64 = 65532;
/// Group and owner may read, nobody else.
const READABLE: i32 = 0o440;
/// Seconds for which a replica that is going away still takes connections: no node's rules for the Service know
/// sooner that it is.
const LINGER: i64 = 5;
/// Seconds it then has for the sessions that are open. The proxy itself gives up a little earlier.
const DRAIN: i64 = 30;

/// The Deployment, unless the CA bundle that it must verify with is neither there nor mounted already.
#[must_use]
pub fn deployment(
    target: &ProtectedTarget,
    settings: &Settings,
    found: &References,
    mounted: &BTreeSet<(String, String)>,
) -> Option<Child> {
    let name = target.name_any();
    let (volumes, mounts) = volumes(target, found, mounted)?;
    let labels = names::labels(&name);
    let template = PodTemplateSpec {
        metadata: Some(ObjectMeta { labels: Some(labels), ..ObjectMeta::default() }),
        spec: Some(PodSpec {
            service_account_name: Some(names::fleet(&name)),
            security_context: Some(pod_security()),
            enable_service_links: Some(false),
            termination_grace_period_seconds: Some(LINGER + DRAIN),
            topology_spread_constraints: Some(
                ["kubernetes.io/hostname", "topology.kubernetes.io/zone"].map(|key| spread(&name, key)).into(),
            ),
            containers: vec![container(target, settings, mounts)],
            volumes: Some(volumes),
            ..PodSpec::default()
        }),
    };
    let rolling =
        RollingUpdateDeployment { max_unavailable: Some(IntOrString::Int(0)), max_surge: Some(IntOrString::Int(1)) };
    let spec = DeploymentSpec {
        replicas: Some(target.spec.proxy.replicas),
        selector: LabelSelector { match_labels: Some(names::selector(&name)), ..LabelSelector::default() },
        strategy: Some(DeploymentStrategy { type_: Some("RollingUpdate".to_owned()), rolling_update: Some(rolling) }),
        template,
        ..DeploymentSpec::default()
    };
    let metadata = names::meta(target, names::fleet(&name));
    Some(Child::Deployment(Box::new(Deployment { metadata, spec, status: None })))
}

/// The volumes a Deployment has, by name, with the Secret or ConfigMap in each.
#[must_use]
pub fn mounted(deployment: &Deployment) -> BTreeSet<(String, String)> {
    let pod = deployment.spec.template.spec.as_ref();
    let volumes = pod.and_then(|pod| pod.volumes.as_ref()).into_iter().flatten();
    volumes
        .filter_map(|volume| {
            let secret = volume.secret.as_ref().and_then(|source| source.secret_name.clone());
            let source = secret.or_else(|| volume.config_map.as_ref().map(|source| source.name.clone()))?;
            Some((volume.name.clone(), source))
        })
        .collect()
}

/// A credential is mounted once its Secret is complete, and from then on stays: a kubelet keeps what a
/// running pod has when a Secret goes away, and a pod that waits for a Secret would hold up the others.
fn volumes(
    target: &ProtectedTarget,
    found: &References,
    mounted: &BTreeSet<(String, String)>,
) -> Option<(Vec<Volume>, Vec<VolumeMount>)> {
    let usable = |volume: &str, reference: &Reference| {
        refs::is_complete(found, reference) || mounted.contains(&(volume.to_owned(), reference.name.clone()))
    };
    let mut parts = vec![
        (secret_volume("tls", &names::server_secret(&target.name_any()), None), mount("tls", arguments::TLS_DIR, true)),
        (empty_dir("state", "64Mi"), mount("state", arguments::STATE_DIR, false)),
        records(target),
        mask_key(target),
    ];
    for credential in &target.spec.credentials {
        let (volume, secret) = (format!("credential-{}", credential.name), &credential.secret_ref.name);
        if usable(&volume, &refs::credential(secret)) {
            let path = format!("{}/{}", arguments::CREDENTIALS_DIR, credential.name);
            let keys = ["username", "password"].map(|key| (key, key)).to_vec();
            parts.push((secret_volume(&volume, secret, Some(keys)), mount(&volume, &path, true)));
        }
    }
    if let (Some(bundle), Some(reference)) = (&target.spec.tls.ca_bundle_ref, refs::ca_bundle(target)) {
        if !usable("upstream-ca", &reference) {
            return None;
        }
        parts.push((ca_volume("upstream-ca", bundle), mount("upstream-ca", arguments::UPSTREAM_CA_DIR, true)));
    }
    if let (Some(s3), Some(reference)) = (&target.spec.recording.store.s3, refs::store(target)) {
        // Its flag names the directory, so it must be there; nothing is recorded in vain meanwhile, for nothing runs.
        if !usable("store", &reference) {
            return None;
        }
        let [id, secret] = refs::STORE_KEYS;
        let keys = vec![(id, "username"), (secret, "password")];
        let path = format!("{}/credential", arguments::STORE_DIR);
        parts.push((secret_volume("store", &s3.credentials_ref.name, Some(keys)), mount("store", &path, true)));
        if let (Some(bundle), Some(reference)) = (&s3.ca_bundle_ref, refs::store_ca(target)) {
            if !usable("store-ca", &reference) {
                return None;
            }
            parts.push((ca_volume("store-ca", bundle), mount("store-ca", arguments::STORE_CA_DIR, true)));
        }
    }
    Some(parts.into_iter().unzip())
}

/// Mounted whether it is there or not: a fleet does not wait for it, and is not rolled out anew when the first mask
/// wants it.
fn mask_key(target: &ProtectedTarget) -> (Volume, VolumeMount) {
    let mut volume = secret_volume("mask-key", &names::mask_key(&target.name_any()), None);
    if let Some(source) = &mut volume.secret {
        source.optional = Some(true);
    }
    (volume, mount("mask-key", arguments::MASK_KEY_DIR, true))
}

fn ca_volume(volume: &str, bundle: &CaBundleRef) -> Volume {
    let keys = vec![(bundle.key.as_str(), "ca.crt")];
    match bundle.kind {
        BundleSourceKind::Secret => secret_volume(volume, &bundle.name, Some(keys)),
        BundleSourceKind::ConfigMap => config_volume(volume, &bundle.name, keys),
    }
}

fn records(target: &ProtectedTarget) -> (Volume, VolumeMount) {
    let store = &target.spec.recording.store;
    let mount = mount("records", arguments::RECORDS_DIR, false);
    match (&store.persistent_volume_claim, &store.empty_dir) {
        (Some(claim), _) => {
            let claim_name = claim.claim_name.clone();
            let source = PersistentVolumeClaimVolumeSource { claim_name, ..Default::default() };
            let volume =
                Volume { name: "records".to_owned(), persistent_volume_claim: Some(source), ..Volume::default() };
            // Targets may share the claim, and each has a directory of its own. Its replicas share that: each writes files of
            // its own name, and what a replica that is gone has left is looked after by the others.
            (volume, VolumeMount { sub_path: Some(target.name_any()), ..mount })
        }
        (None, store) => {
            let limit = store.as_ref().map_or("1Gi", |store| store.size_limit.as_str());
            (empty_dir("records", limit), mount)
        }
    }
}

fn container(target: &ProtectedTarget, settings: &Settings, mounts: Vec<VolumeMount>) -> Container {
    let pod_name = ObjectFieldSelector { field_path: "metadata.name".to_owned(), ..Default::default() };
    Container {
        name: "proxy".to_owned(),
        image: Some(settings.proxy_image.clone()),
        image_pull_policy: Some("IfNotPresent".to_owned()),
        args: Some(arguments::arguments(target)),
        env: Some(vec![EnvVar {
            name: "POD_NAME".to_owned(),
            value_from: Some(EnvVarSource { field_ref: Some(pod_name), ..EnvVarSource::default() }),
            ..EnvVar::default()
        }]),
        ports: Some(vec![port("proxy", arguments::PROXY_PORT), port("admin", arguments::ADMIN_PORT)]),
        lifecycle: Some(linger()),
        readiness_probe: Some(probe("/readyz", 2, 1)),
        liveness_probe: Some(probe("/healthz", 10, 6)),
        resources: Some(resources(target.spec.proxy.resources.as_ref())),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities { drop: Some(vec!["ALL".to_owned()]), add: None }),
            ..SecurityContext::default()
        }),
        volume_mounts: Some(mounts),
        ..Container::default()
    }
}

fn pod_security() -> PodSecurityContext {
    PodSecurityContext {
        run_as_non_root: Some(true),
        run_as_user: Some(NON_ROOT),
        run_as_group: Some(NON_ROOT),
        fs_group: Some(NON_ROOT),
        seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".to_owned(), localhost_profile: None }),
        ..PodSecurityContext::default()
    }
}

fn spread(target: &str, key: &str) -> TopologySpreadConstraint {
    TopologySpreadConstraint {
        max_skew: 1,
        topology_key: key.to_owned(),
        when_unsatisfiable: "ScheduleAnyway".to_owned(),
        label_selector: Some(LabelSelector { match_labels: Some(names::selector(target)), ..LabelSelector::default() }),
        ..TopologySpreadConstraint::default()
    }
}

fn resources(asked: Option<&Resources>) -> ResourceRequirements {
    let quantities = |from: &BTreeMap<String, IntOrString>| -> BTreeMap<String, Quantity> {
        let text = |value: &IntOrString| match value {
            IntOrString::Int(number) => number.to_string(),
            IntOrString::String(text) => text.clone(),
        };
        from.iter().map(|(name, value)| (name.clone(), Quantity(text(value)))).collect()
    };
    let fixed = |pairs: &[(&str, &str)]| {
        Some(pairs.iter().map(|(name, value)| ((*name).to_owned(), Quantity((*value).to_owned()))).collect())
    };
    match asked {
        None => ResourceRequirements {
            requests: fixed(&[("cpu", "50m"), ("memory", "64Mi")]),
            limits: fixed(&[("memory", "512Mi")]),
            ..ResourceRequirements::default()
        },
        Some(asked) => {
            let some = |map: BTreeMap<_, _>| (!map.is_empty()).then_some(map);
            let (requests, limits) = (some(quantities(&asked.requests)), some(quantities(&asked.limits)));
            ResourceRequirements { requests, limits, ..ResourceRequirements::default() }
        }
    }
}

fn linger() -> Lifecycle {
    let handler = LifecycleHandler { sleep: Some(SleepAction { seconds: LINGER }), ..LifecycleHandler::default() };
    Lifecycle { pre_stop: Some(handler), ..Lifecycle::default() }
}

fn probe(path: &str, period: i32, failures: i32) -> Probe {
    Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.to_owned()),
            port: IntOrString::String("admin".to_owned()),
            ..HTTPGetAction::default()
        }),
        period_seconds: Some(period),
        failure_threshold: Some(failures),
        timeout_seconds: Some(2),
        ..Probe::default()
    }
}

fn port(name: &str, number: u16) -> ContainerPort {
    ContainerPort {
        name: Some(name.to_owned()),
        container_port: number.into(),
        protocol: Some("TCP".to_owned()),
        ..ContainerPort::default()
    }
}

fn mount(volume: &str, path: &str, read_only: bool) -> VolumeMount {
    let read_only = read_only.then_some(true);
    VolumeMount { name: volume.to_owned(), mount_path: path.to_owned(), read_only, ..VolumeMount::default() }
}

fn secret_volume(volume: &str, secret: &str, keys: Option<Vec<(&str, &str)>>) -> Volume {
    let source = SecretVolumeSource {
        secret_name: Some(secret.to_owned()),
        default_mode: Some(READABLE),
        items: keys.map(items),
        ..SecretVolumeSource::default()
    };
    Volume { name: volume.to_owned(), secret: Some(source), ..Volume::default() }
}

fn config_volume(volume: &str, config_map: &str, keys: Vec<(&str, &str)>) -> Volume {
    let source = ConfigMapVolumeSource {
        name: config_map.to_owned(),
        default_mode: Some(READABLE),
        items: Some(items(keys)),
        ..ConfigMapVolumeSource::default()
    };
    Volume { name: volume.to_owned(), config_map: Some(source), ..Volume::default() }
}

fn items(keys: Vec<(&str, &str)>) -> Vec<KeyToPath> {
    let item =
        |(key, path): (&str, &str)| KeyToPath { key: key.to_owned(), path: path.to_owned(), ..KeyToPath::default() };
    keys.into_iter().map(item).collect()
}

fn empty_dir(volume: &str, limit: &str) -> Volume {
    let source =
        EmptyDirVolumeSource { size_limit: Some(Quantity(limit.to_owned())), ..EmptyDirVolumeSource::default() };
    Volume { name: volume.to_owned(), empty_dir: Some(source), ..Volume::default() }
}

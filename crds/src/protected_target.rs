//! `ProtectedTarget`: what is protected, how to reach it, and the fleet in front of it.
//!
//! Owns the kind's fields, defaults and rules. Touches nothing. Invariant: TLS towards the target is
//! verified unless the object spells out otherwise.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::schema::{self, Conditions};

/// What is protected, how to reach it, and the fleet of proxies in front of it.
#[derive(CustomResource, Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "sallyport.dev",
    version = "v1alpha1",
    kind = "ProtectedTarget",
    plural = "protectedtargets",
    shortname = "target",
    category = "sallyport",
    namespaced,
    status = "ProtectedTargetStatus",
    derive = "PartialEq",
    doc = "What is protected, how to reach it, and the fleet of proxies in front of it. Agents dial status.endpoint.",
    // The fleet's Service has this name: RFC 1035, with room for suffixes such as -server.
    validation = Rule::new("self.metadata.name.matches('^[a-z]([-a-z0-9]{0,50}[a-z0-9])?$')").message("the name of a ProtectedTarget becomes a Service: a lower case letter, then letters, digits and dashes, at most 52 in all"),
    printcolumn(name = "Ready", type_ = "string", json_path = r#".status.conditions[?(@.type=="Ready")].status"#),
    printcolumn(name = "Endpoint", type_ = "string", json_path = ".status.endpoint"),
    printcolumn(name = "Replicas", type_ = "integer", json_path = ".status.readyReplicas"),
    printcolumn(name = "Policies", type_ = "integer", json_path = ".status.attachedPolicies"),
    printcolumn(name = "Bundle", type_ = "string", json_path = ".status.bundleRevision"),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
pub struct ProtectedTargetSpec {
    /// A PostgreSQL server.
    pub postgres: PostgresTarget,

    /// TLS towards the target.
    pub tls: TlsSpec,

    /// What the fleet logs in with; policies grant these by name. Agents never see them.
    #[schemars(length(min = 1, max = 16))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    pub credentials: Vec<Credential>,

    /// The fleet.
    #[serde(default)]
    pub proxy: ProxySpec,

    /// What is recorded, and where.
    #[serde(default)]
    pub recording: RecordingSpec,
}

/// A PostgreSQL server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct PostgresTarget {
    /// DNS name or IP address.
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = ("isIP(self) || self.matches('^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?[.]?$')", "host must be a DNS name or an IP address, without scheme and port"))]
    pub host: String,
    /// TCP port.
    #[serde(default = "postgres_port")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
    /// The schemas that an unqualified name is looked up in, for every session: rules are matched with it and
    /// the proxy sets it on the server, so that both mean the same table.
    #[serde(default = "search_path")]
    #[schemars(length(min = 1, max = 16), inner(length(min = 1, max = 63)))]
    #[x_kube(
        merge_strategy = ListMerge::Set,
        validation = Rule::new("self.all(s, s.matches('^[A-Za-z_][A-Za-z0-9_-]*$'))").message("searchPath lists schemas by plain name: letters, digits, _ and -; $user is not supported")
    )]
    pub search_path: Vec<String>,
}

/// TLS towards the target.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.mode != 'Disable' || !has(self.caBundleRef)").message("caBundleRef has no meaning with mode Disable: remove it, or verify with VerifyFull"),
    validation = Rule::new("self.mode == 'VerifyFull' || !has(self.serverName)").message("serverName is verified with mode VerifyFull alone: remove it, or use VerifyFull")
)]
pub struct TlsSpec {
    /// How much of the target's certificate is verified. To go without TLS has to be spelled out.
    pub mode: TlsMode,
    /// The CA certificates that the target's certificate must come from. Absent: those of the proxy image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_bundle_ref: Option<CaBundleRef>,
    /// The name that the target's certificate must have. Absent: `host`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253))]
    #[x_kube(validation = ("isIP(self) || self.matches('^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$')", "serverName must be a DNS name or an IP address"))]
    pub server_name: Option<String>,
}

/// How much of the target's certificate is verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TlsMode {
    /// Its chain and its name.
    VerifyFull,
    /// Its chain; any name.
    VerifyCa,
    /// No TLS: passwords and data are readable on the way.
    Disable,
}

/// CA certificates, PEM, in a Secret or ConfigMap of the same namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct CaBundleRef {
    /// The kind of object.
    pub kind: BundleSourceKind,
    /// Its name.
    #[schemars(length(min = 1, max = 253), regex(pattern = schema::DNS_SUBDOMAIN))]
    pub name: String,
    /// The key in it.
    #[serde(default = "ca_key")]
    #[schemars(length(min = 1, max = 253), regex(pattern = "^[-._a-zA-Z0-9]+$"))]
    pub key: String,
}

/// Where a CA bundle is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum BundleSourceKind {
    /// A `Secret`.
    Secret,
    /// A `ConfigMap`.
    ConfigMap,
}

/// What the fleet can log in with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Credential {
    /// The name policies grant it by, and clients ask for it by (as the PostgreSQL user).
    // Shorter than a label: the volume it is mounted from is named after it.
    #[schemars(length(min = 1, max = 50), regex(pattern = schema::DNS_LABEL))]
    pub name: String,
    /// A Secret of the same namespace with the keys `username` and `password`.
    pub secret_ref: SecretRef,
}

/// A Secret of the same namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SecretRef {
    /// Its name.
    #[schemars(length(min = 1, max = 253), regex(pattern = schema::DNS_SUBDOMAIN))]
    pub name: String,
}

/// The fleet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProxySpec {
    /// How many replicas.
    #[serde(default = "two")]
    #[schemars(range(min = 1, max = 64))]
    pub replicas: i32,
    /// The port agents dial.
    #[serde(default = "postgres_port")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
    /// How the Service is reached.
    #[serde(default)]
    pub service_type: ServiceType,
    /// How long a transaction that is open when its session's certificate expires, or its sessionDuration ends, may
    /// still be worked on; then what runs is interrupted and the session ends. At most 24h. Absent: 10m.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16), regex(pattern = schema::DURATION))]
    #[x_kube(validation = Rule::new("duration(self) <= duration('24h')").message("expiryGrace must be at most 24h"))]
    pub expiry_grace: Option<String>,
    /// For how long without word from the API server the fleet goes on deciding with what it knows; then it refuses
    /// every new session and command until there is word again. At least 1m: word comes every 15 s. Absent: it goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16), regex(pattern = schema::DURATION))]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1m')").message("staleAfter must be at least 1m: word from the API server comes every 15 s"))]
    pub stale_after: Option<String>,
    /// Resources of a replica. Absent: requests of 50m cpu and 64Mi memory, and a memory limit of 512Mi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
}

/// How the fleet's Service is reached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ServiceType {
    /// From inside the cluster.
    #[default]
    ClusterIP,
    /// From every node's port.
    NodePort,
    /// Through the cloud's load balancer.
    LoadBalancer,
}

/// Resources of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Resources {
    /// What is set aside for it.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::quantities")]
    pub requests: BTreeMap<String, IntOrString>,
    /// What it may use at most.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "schema::quantities")]
    pub limits: BTreeMap<String, IntOrString>,
}

/// What is recorded, and where.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RecordingSpec {
    /// How much is recorded. Commands: every command before it is forwarded, and how it ended. Full: that, and the rows and
    /// lines that its client is shown, masked as they are shown and before they are, and what it copies in. None: sessions
    /// and refusals.
    #[serde(default)]
    pub level: RecordingLevel,
    /// What a record must have come through before its command runs.
    #[serde(default)]
    pub durability: RecordDurability,
    /// What happens to a command whose record cannot be written.
    #[serde(default)]
    pub on_failure: OnRecordFailure,
    /// When a file is closed, compressed and followed by the next. Absent: at 64Mi or after 1h; after 5m with a store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotation: Option<RecordSpan>,
    /// How much is kept where it was written: beyond it the oldest closed files are removed, once the recording says so
    /// itself, its anchor knows that, and a store, if there is one, has them. Absent: everything is kept, and when
    /// the volume is full it is full.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<RecordSpan>,
    /// Where the records are kept.
    #[serde(default)]
    pub store: RecordStore,
}

/// A bound by size, by age, or by whichever comes first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.size) || has(self.age)").message("set size, age, or both"))]
pub struct RecordSpan {
    /// Bytes, as a quantity.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 20), regex(pattern = schema::QUANTITY))]
    #[x_kube(validation = Rule::new("quantity(self).compareTo(quantity('1Mi')) >= 0").message("size must be at least 1Mi"))]
    pub size: Option<String>,
    /// Time, as a duration.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 16), regex(pattern = schema::DURATION))]
    #[x_kube(validation = Rule::new("duration(self) >= duration('1m')").message("age must be at least 1m"))]
    pub age: Option<String>,
}

/// How much is recorded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RecordingLevel {
    /// Every command, before it is forwarded; a command that cannot be recorded is refused.
    #[default]
    Commands,
    /// That, what the client is shown of each result, behind masks and limits (rows, and lines of COPY TO), and what it
    /// sends in COPY FROM. It is written before it goes on; where it cannot be, the session ends (unless `onFailure` is
    /// Continue). Records grow by what is read and copied, and hold data of the target: who may read records may read that.
    /// Not kept: errors, notices and notifications. A row of more than 64 MiB ends the session.
    Full,
    /// Sessions and refusals, where that is possible.
    None,
}

/// What a record must have come through before its command runs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum RecordDurability {
    /// The kernel has it: it outlives the proxy and its pod's restart, not a node that loses power.
    #[default]
    Written,
    /// The disk has it (fdatasync; all sessions of a replica share one): each command waits for that.
    Synced,
}

/// What happens to a command whose record cannot be written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum OnRecordFailure {
    /// It is refused.
    #[default]
    Refuse,
    /// It runs. Lost records are counted (`sallyport_proxy_records_lost_total`), and the recording names the gap once
    /// there is room again.
    Continue,
}

/// Where the records are kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.emptyDir) != has(self.persistentVolumeClaim)").message("a store is either emptyDir or persistentVolumeClaim: set exactly one"))]
pub struct RecordStore {
    /// On the node, for as long as the pod lives.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub empty_dir: Option<EmptyDirStore>,
    /// On a volume that outlives the pod, in a directory of the target's name. Each replica writes files of its own name
    /// there, and looks after what replicas that are gone have left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistent_volume_claim: Option<VolumeClaimStore>,
    /// Beside that volume: an S3-compatible store, to which files are copied once they are closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub s3: Option<S3Store>,
}

/// A bucket of an S3-compatible store. Objects are named `<prefix>/<namespace>/<target>/<file>`; what is there is never
/// overwritten and never deleted: how long it stays is the bucket's own matter (object lock, lifecycle).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("!has(self.caBundleRef) || self.endpoint.startsWith('https:')").message("caBundleRef has no meaning without TLS: use https, or remove it"))]
pub struct S3Store {
    /// `https://host` or `http://host`, with a port where it is not the usual one. The bucket goes into the path.
    #[schemars(length(min = 1, max = 300))]
    #[x_kube(validation = Rule::new("self.matches('^https?://[A-Za-z0-9]([-A-Za-z0-9.]*[A-Za-z0-9])?(:[0-9]{1,5})?$')").message("endpoint is https://host or http://host, with a port or without, and no path"))]
    pub endpoint: String,
    /// The region that requests are signed for.
    #[serde(default = "us_east_1")]
    #[schemars(length(min = 1, max = 63), regex(pattern = schema::DNS_LABEL))]
    pub region: String,
    /// The bucket.
    #[schemars(length(min = 3, max = 63), regex(pattern = schema::DNS_SUBDOMAIN))]
    pub bucket: String,
    /// What the names of objects begin with. Absent: with the namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(min = 1, max = 200),
        regex(pattern = "^[A-Za-z0-9][-A-Za-z0-9_.]*(/[A-Za-z0-9][-A-Za-z0-9_.]*)*$")
    )]
    pub prefix: Option<String>,
    /// A Secret of the same namespace with the keys `accessKeyId` and `secretAccessKey`. It needs to put objects and to
    /// ask for their heads, and nothing else.
    pub credentials_ref: SecretRef,
    /// The CA certificates that the store's certificate must come from. Absent: those of the proxy image.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_bundle_ref: Option<CaBundleRef>,
}

/// A directory on the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct EmptyDirStore {
    /// How large it may grow.
    #[serde(default = "one_gibibyte")]
    #[schemars(length(max = 20), regex(pattern = schema::QUANTITY))]
    pub size_limit: String,
}

/// A volume claimed beforehand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VolumeClaimStore {
    /// Name of a `PersistentVolumeClaim` of the same namespace; `ReadWriteMany` if replicas share it.
    #[schemars(length(min = 1, max = 253), regex(pattern = schema::DNS_SUBDOMAIN))]
    pub claim_name: String,
}

/// What the operator and the replicas found.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProtectedTargetStatus {
    /// What agents dial: `host:port`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 320))]
    pub endpoint: Option<String>,
    /// Replicas that accept sessions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_replicas: Option<i32>,
    /// The revision of the bundle that the replicas are to run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub bundle_revision: Option<String>,
    /// What each replica runs. Each writes its own entry.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 256))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["pod".into()]))]
    pub replicas: Vec<ReplicaStatus>,
    /// The last anchors of recordings whose replicas are gone, the newest last; at most 64.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64))]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["run".into()]))]
    pub recordings: Vec<RecordingAnchor>,
    /// How many policies are compiled into the bundle.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attached_policies: Option<i32>,
    /// What is known about this object.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "schema::conditions")]
    pub conditions: Conditions,
}

/// What one replica runs, written by that replica.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReplicaStatus {
    /// Name of its pod.
    #[schemars(length(min = 1, max = 253))]
    pub pod: String,
    /// The revision of the bundle that it decides with.
    #[schemars(length(max = 64))]
    pub revision: String,
    /// Digest of the roots that it verifies agents with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub trust: Option<String>,
    /// When it began to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_at: Option<Time>,
    /// Where its recording stands; told within half a minute (a second for each replica, where there are more), and when
    /// it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recording: Option<RecordingAnchor>,
}

/// Where a recording stood: kept here, where the recording is not, so that one that was cut off or written anew is
/// found out (`sallyport-proxy verify --anchor`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct RecordingAnchor {
    /// What the names of the recording's files begin with.
    #[schemars(length(min = 1, max = 300))]
    pub run: String,
    /// How many records it had.
    #[schemars(range(min = 0))]
    pub records: i64,
    /// The hash of the last of them: SHA-256, in hexadecimal.
    #[schemars(length(equal = 64))]
    pub hash: String,
}

impl Default for ProxySpec {
    fn default() -> Self {
        Self {
            replicas: two(),
            port: postgres_port(),
            service_type: ServiceType::default(),
            expiry_grace: None,
            stale_after: None,
            resources: None,
        }
    }
}

impl Default for RecordStore {
    fn default() -> Self {
        Self { empty_dir: Some(EmptyDirStore { size_limit: one_gibibyte() }), persistent_volume_claim: None, s3: None }
    }
}

const fn postgres_port() -> u16 {
    5432
}

const fn two() -> i32 {
    2
}

fn search_path() -> Vec<String> {
    ["pg_catalog", "public", "pg_temp"].map(str::to_owned).to_vec()
}

fn ca_key() -> String {
    "ca.crt".to_owned()
}

fn us_east_1() -> String {
    "us-east-1".to_owned()
}

fn one_gibibyte() -> String {
    "1Gi".to_owned()
}

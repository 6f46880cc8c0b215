//! A fleet of one and its agents on a real API server: namespaces, rights, and the objects that a proxy reads. There
//! is no operator here.
//!
//! Owns two namespaces for as long as it lives. Touches the control plane it is given. Invariant: the proxy has the
//! rights that the operator gives a fleet, and no others.

use std::sync::Arc;
use std::time::SystemTime;

use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::wait::await_condition;
use kube::runtime::wait::conditions::is_crd_established;
use kube::{Client, ResourceExt};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use sallyport_crds::{AgentIdentity, ProtectedTarget};
use sallyport_harness::{ControlPlane, LeafOptions, TempNamespace, temp_namespace};
use sallyport_policy::{Bundle, World};
use sallyport_proxy::{Running, start};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{LONG, Stage, bundle};

pub(crate) const TARGET: &str = "orders-db";

pub(crate) struct Site<'p> {
    pub(crate) plane: &'p ControlPlane,
    pub(crate) fleet: TempNamespace,
    pub(crate) agents: TempNamespace,
    pub(crate) stage: Stage,
}

impl<'p> Site<'p> {
    pub(crate) async fn new(plane: &'p ControlPlane) -> Self {
        let client = plane.client().await.unwrap();
        define(&client).await;
        let fleet = temp_namespace(&client, "fleet").await.unwrap();
        let agents = temp_namespace(&client, "agents").await.unwrap();
        let site = Self { plane, fleet, agents, stage: Stage::new() };
        site.put::<ProtectedTarget>(
            &site.fleet,
            TARGET,
            json!({ "spec": {
            "postgres": { "host": "db.example", "port": 5432 }, "tls": { "mode": "Disable" },
            "credentials": [{ "name": "default", "secretRef": { "name": "s" } }] } }),
        )
        .await;
        // What the operator gives to a fleet, and nothing else.
        let rules = json!([
            { "apiGroups": [""], "resources": ["configmaps"], "resourceNames": [format!("{TARGET}-bundle")],
              "verbs": ["get", "list", "watch"] },
            { "apiGroups": ["sallyport.dev"], "resources": ["protectedtargets"], "resourceNames": [TARGET],
              "verbs": ["get"] },
            { "apiGroups": ["sallyport.dev"], "resources": ["protectedtargets/status"], "resourceNames": [TARGET],
              "verbs": ["patch"] }
        ]);
        site.allow(&site.fleet, rules).await;
        site.allow_identities(&site.agents).await;
        site
    }

    pub(crate) async fn put<K>(&self, namespace: &TempNamespace, name: &str, mut object: Value) -> K
    where
        K: kube::Resource<Scope = kube::core::NamespaceResourceScope>
            + Clone
            + std::fmt::Debug
            + serde::de::DeserializeOwned,
        K::DynamicType: Default,
    {
        object["apiVersion"] = json!(K::api_version(&K::DynamicType::default()));
        object["kind"] = json!(K::kind(&K::DynamicType::default()));
        object["metadata"] = json!({ "name": name });
        let parameters = PatchParams::apply("test").force();
        namespace.api::<K>().patch(name, &parameters, &Patch::Apply(object)).await.unwrap()
    }

    async fn allow(&self, namespace: &TempNamespace, rules: Value) {
        self.put::<Role>(namespace, "fleet", json!({ "rules": rules })).await;
        self.put::<RoleBinding>(
            namespace,
            "fleet",
            json!({
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "fleet" },
            "subjects": [{ "kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": self.user() }] }),
        )
        .await;
    }

    pub(crate) async fn allow_identities(&self, namespace: &TempNamespace) {
        let verbs = ["get", "list", "watch"];
        let rule = json!({ "apiGroups": ["sallyport.dev"], "resources": ["agentidentities"], "verbs": verbs });
        self.allow(namespace, json!([rule])).await;
    }

    fn user(&self) -> String {
        format!("fleet-of-{}", self.fleet.name())
    }

    pub(crate) async fn identity(&self, name: &str, suspend: bool) {
        self.identity_in(&self.agents, name, suspend).await;
    }

    pub(crate) async fn identity_in(&self, namespace: &TempNamespace, name: &str, suspend: bool) {
        let spec = json!({ "spec": { "groups": ["bots"], "suspend": suspend } });
        self.put::<AgentIdentity>(namespace, name, spec).await;
    }

    pub(crate) fn bundle(&self, policy: &str) -> Bundle {
        bundle(self.fleet.name(), TARGET, &[self.agents.name()], policy)
    }

    pub(crate) async fn publish(&self, json: &str) {
        let name = format!("{TARGET}-bundle");
        self.put::<ConfigMap>(&self.fleet, &name, json!({ "data": { "bundle.json": json } })).await;
    }

    pub(crate) async fn start(&self) -> Running {
        let kubeconfig = self.plane.user_kubeconfig(&self.user(), &[]).unwrap();
        start(self.stage.in_cluster(&kubeconfig, self.fleet.name(), TARGET)).await.unwrap()
    }

    /// Another replica of the same fleet.
    #[allow(dead_code, reason = "each test file uses its part")]
    pub(crate) async fn start_as(&self, pod: &str) -> Running {
        let kubeconfig = self.plane.user_kubeconfig(&self.user(), &[]).unwrap();
        start(self.stage.in_cluster_as(&kubeconfig, self.fleet.name(), TARGET, pod)).await.unwrap()
    }

    /// A connection with the certificate of `bot`, past the handshake.
    pub(crate) async fn enter(&self, running: &Running) -> TlsStream<TcpStream> {
        let identity: AgentIdentity = self.agents.api().get("bot").await.unwrap();
        self.enter_with(running, identity.metadata.uid).await
    }

    /// The same with a certificate that names that UID.
    pub(crate) async fn enter_with(&self, running: &Running, uid: Option<String>) -> TlsStream<TcpStream> {
        let pki = &self.stage.pki;
        let options = LeafOptions {
            uris: vec![pki.spiffe_id(self.agents.name(), "bot")],
            uid,
            not_before: SystemTime::now(),
            ..LeafOptions::default()
        };
        let leaf = pki.leaf(&options).unwrap();
        let pem = |text: &str| CertificateDer::from_pem_slice(text.as_bytes()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(pem(&pki.ca_pem())).unwrap();
        let key = PrivateKeyDer::from_pem_slice(leaf.key_pem.as_bytes()).unwrap();
        let tls = ClientConfig::builder().with_root_certificates(roots);
        let tls = tls.with_client_auth_cert(vec![pem(&leaf.cert_pem)], key).unwrap();
        let mut tcp = TcpStream::connect(running.listen).await.unwrap();
        tcp.write_all(&[0, 0, 0, 8, 4, 210, 22, 47]).await.unwrap();
        assert_eq!(tcp.read_u8().await.unwrap(), b'S');
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(Arc::new(tls)).connect(name, tcp).await.unwrap()
    }

    pub(crate) fn suspended(&self, world: &World) -> Option<bool> {
        world.roster.member(self.agents.name(), "bot").map(|bot| bot.suspended)
    }
}

/// Defines the two kinds that a proxy reads.
async fn define(client: &Client) {
    let definitions: Api<CustomResourceDefinition> = Api::all(client.clone());
    for definition in sallyport_crds::definitions() {
        let name = definition.name_any();
        if definition.spec.names.kind != "AccessPolicy" {
            let parameters = PatchParams::apply("test").force();
            definitions.patch(&name, &parameters, &Patch::Apply(definition)).await.unwrap();
            let established = await_condition(definitions.clone(), &name, is_crd_established());
            tokio::time::timeout(LONG, established).await.unwrap().unwrap();
        }
    }
}

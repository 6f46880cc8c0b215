//! Services for what runs on the node itself: no selector, and an EndpointSlice with the node's address.
//! It applies these two objects, server-side, and nothing else.
//! Pods reach a program on the node by a service name, as they would reach any other.

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::{Value, json};

use super::NODE_ADDRESS;

/// `ports` are protocol, port of the service, port on the node.
pub(super) async fn expose(
    client: &Client,
    namespace: &str,
    name: &str,
    cluster_ip: Option<&str>,
    ports: &[(&str, u16, u16)],
) -> Result<()> {
    let port_name = |protocol: &str, port: u16| format!("{}-{port}", protocol.to_lowercase());
    let service_ports: Vec<Value> = ports
        .iter()
        .map(|(protocol, port, target)| json!({ "name": port_name(protocol, *port), "protocol": protocol, "port": port, "targetPort": target }))
        .collect();
    let slice_ports: Vec<Value> =
        ports.iter().map(|(protocol, port, target)| json!({ "name": port_name(protocol, *port), "protocol": protocol, "port": target })).collect();
    let mut service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": name, "namespace": namespace },
        "spec": { "ports": service_ports },
    });
    if let (Some(ip), Some(spec)) = (cluster_ip, service.get_mut("spec").and_then(Value::as_object_mut)) {
        spec.insert("clusterIP".to_owned(), json!(ip));
    }
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": { "name": format!("{name}-node"), "namespace": namespace, "labels": {
            "kubernetes.io/service-name": name, "endpointslice.kubernetes.io/managed-by": "sallyport-harness" } },
        "addressType": "IPv4",
        "endpoints": [{ "addresses": [NODE_ADDRESS], "conditions": { "ready": true } }],
        "ports": slice_ports,
    });
    let params = PatchParams::apply("sallyport-harness").force();
    let services: Api<Service> = Api::namespaced(client.clone(), namespace);
    services
        .patch(name, &params, &Patch::Apply(service))
        .await
        .with_context(|| format!("cannot apply service {namespace}/{name}"))?;
    let slices: Api<EndpointSlice> = Api::namespaced(client.clone(), namespace);
    slices
        .patch(&format!("{name}-node"), &params, &Patch::Apply(slice))
        .await
        .context("cannot apply the endpoint slice")?;
    Ok(())
}

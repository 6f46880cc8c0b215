//! A world for the tests of this crate: one target, one agent, and the policies that a test is about.

use std::sync::Arc;

use crate::bundle::{BUNDLE_VERSION, Bundle, PolicyEntry, TargetRef, TlsMode, Upstream};
use crate::{FleetTerms, Member, Recording, RecordingLevel, Roster, World};

pub(crate) fn world(policies: Vec<PolicyEntry>) -> World {
    let upstream = Upstream {
        protocol: "toy".into(),
        host: "db".into(),
        port: 1,
        tls: TlsMode::Disable,
        server_name: None,
        credentials: vec!["default".into()],
        settings: serde_json::Map::new(),
    };
    let bundle = Bundle {
        version: BUNDLE_VERSION,
        revision: String::new(),
        target: TargetRef { namespace: "shop".into(), name: "orders-db".into() },
        trust_domain: "cluster.local".into(),
        upstream,
        agent_namespaces: vec!["ci".into()],
        recording: Recording::at(RecordingLevel::Commands),
        sessions: FleetTerms::default(),
        policies,
    };
    let mut roster = Roster::default();
    roster.insert(Member { namespace: "ci".into(), name: "bot".into(), ..Member::default() });
    World { bundle: Arc::new(bundle), roster: Arc::new(roster), generation: 1 }
}

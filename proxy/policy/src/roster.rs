//! The roster: the identities a fleet may meet, as the cluster has them now.
//!
//! Owns what a proxy knows about agents. Touches nothing; `edges/` fills it. Invariant: an identity
//! that is not in it does not exist.

use core::net::IpAddr;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The identities of the namespaces that the bundle names, by namespace and name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Roster {
    /// Every identity known. In files this is a plain list.
    #[serde(with = "as_list", default)]
    pub members: BTreeMap<(String, String), Member>,
}

/// One identity.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Member {
    /// Namespace of the `AgentIdentity`.
    pub namespace: String,
    /// Name of the `AgentIdentity`.
    pub name: String,
    /// Groups it is in; a group belongs to this namespace.
    #[serde(default)]
    pub groups: Vec<String>,
    /// Nothing is allowed while this is set.
    #[serde(default)]
    pub suspended: bool,
    /// Certificates whose notBefore is earlier are dead: the later of `revokeBefore` and the object's
    /// creation. Seconds since the Unix epoch.
    #[serde(default)]
    pub min_not_before: i64,
    /// The UID of the `AgentIdentity`. Where it is known, certificates that name another or none are dead: an
    /// identity that is made again, be it in the same second, does not revive those of the one before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uid: Option<String>,
    /// The addresses of the pods it is bound to. Absent: it is not bound. Empty: nobody may use it now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addresses: Option<Vec<IpAddr>>,
}

impl Member {
    /// Whether it may be used from there. What is bound has to come from an address, and from a listed one;
    /// IPv4 is the same address when a dual-stack socket spells it as IPv6.
    #[must_use]
    pub fn may_come_from(&self, address: Option<IpAddr>) -> bool {
        let Some(bound) = &self.addresses else { return true };
        let from = address.map(|address| address.to_canonical());
        from.is_some_and(|from| bound.iter().any(|listed| listed.to_canonical() == from))
    }
}

impl Roster {
    /// The member of that namespace and name.
    #[must_use]
    pub fn member(&self, namespace: &str, name: &str) -> Option<&Member> {
        // The key is a pair of owned strings: a borrowed pair cannot look it up without a copy, and this
        // runs once a session and once a change of the world, not once a command.
        self.members.get(&(namespace.to_owned(), name.to_owned()))
    }

    /// Adds or replaces a member.
    pub fn insert(&mut self, member: Member) {
        self.members.insert((member.namespace.clone(), member.name.clone()), member);
    }
}

mod as_list {
    use super::{BTreeMap, Member};
    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(
        members: &BTreeMap<(String, String), Member>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(members.values())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<(String, String), Member>, D::Error> {
        let mut members = BTreeMap::new();
        for member in Vec::<Member>::deserialize(deserializer)? {
            let key = (member.namespace.clone(), member.name.clone());
            if members.insert(key, member).is_some() {
                return Err(serde::de::Error::custom("an identity is listed twice"));
            }
        }
        Ok(members)
    }
}

//! The identities of the namespaces that the bundle names, as their watches tell of them.
//!
//! Owns how events come to a roster. Touches its arguments only; [`super::cluster`] watches. Invariants:
//! a list counts only when it is complete; a namespace that cannot be read costs only itself; what was heard of a
//! suspension, a revocation or a deletion is not unheard from an API server that lags behind.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::SystemTime;

use kube::ResourceExt;
use kube::runtime::watcher::Event;
use sallyport_crds::AgentIdentity;
use sallyport_policy::{Member, Roster};

type Members = BTreeMap<String, Known>;

/// Deleted identities of a namespace that are remembered: as many as an API server that lags may still show.
const MOST_GONE: usize = 1024;

/// What is known of each namespace.
#[derive(Debug, Default)]
pub(crate) struct Namespaces {
    known: BTreeMap<String, Namespace>,
}

#[derive(Debug, Default)]
struct Namespace {
    members: Members,
    /// The list that is coming in, until it is complete.
    incoming: Option<Members>,
    /// UIDs of the identities whose deletion was heard of, the latest at the end.
    gone: VecDeque<String>,
    standing: Standing,
}

/// An identity, and the version of its object that said so; none for one from before a restart.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Known {
    member: Member,
    version: Option<u64>,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum Standing {
    /// No complete list yet.
    #[default]
    Awaited,
    /// Refused to us before any list: nobody of it is known.
    Forbidden,
    Listed,
}

impl Namespaces {
    /// Sets which namespaces are spoken of; returns those that are new. Until a new one is listed, its
    /// members are those that `kept` has of it.
    pub(crate) fn speak_of(&mut self, wanted: &[String], kept: &Roster) -> Vec<String> {
        self.known.retain(|name, _| wanted.contains(name));
        let mut added = Vec::new();
        for name in wanted {
            if !self.known.contains_key(name) {
                let of_it = kept.members.values().filter(|member| member.namespace == *name);
                let kept = |member: &Member| Known { member: member.clone(), version: None };
                let members = of_it.map(|member| (member.name.clone(), kept(member))).collect();
                self.known.insert(name.clone(), Namespace { members, ..Namespace::default() });
                added.push(name.clone());
            }
        }
        added
    }

    /// Takes an event of a namespace's watch in; tells whether the roster may have changed.
    pub(crate) fn hear(&mut self, namespace: &str, event: Event<AgentIdentity>) -> bool {
        let Some(known) = self.known.get_mut(namespace) else { return false };
        match event {
            Event::Init => known.incoming = Some(Members::new()),
            Event::InitApply(identity) => {
                if let Some(taken) = known.take(namespace, &identity) {
                    known.incoming.get_or_insert_default().insert(identity.name_any(), taken);
                }
            }
            Event::InitDone => {
                known.members = known.incoming.take().unwrap_or_default();
                known.standing = Standing::Listed;
                return true;
            }
            Event::Apply(identity) => {
                let name = identity.name_any();
                return match known.take(namespace, &identity) {
                    Some(taken) => {
                        let before = known.members.insert(name, taken.clone());
                        before.is_none_or(|before| before.member != taken.member)
                    }
                    None => known.members.remove(&name).is_some(),
                };
            }
            Event::Delete(identity) => {
                known.bury(&identity);
                return known.members.remove(&identity.name_any()).is_some();
            }
        }
        false
    }

    /// When an event that suspends somebody or revokes certificates was written; nothing for any other.
    pub(crate) fn revocation(&self, namespace: &str, event: &Event<AgentIdentity>) -> Option<SystemTime> {
        let Event::Apply(identity) = event else { return None };
        let before = &self.known.get(namespace)?.members.get(&identity.name_any())?.member;
        let after = member(namespace, identity);
        let less = (after.suspended && !before.suspended) || after.min_not_before > before.min_not_before;
        less.then(|| written(identity)).flatten()
    }

    /// A namespace is refused to us. What was listed before stays: an API server that has just started
    /// refuses too, until it has read its own rules. Tells whether this settles an awaited namespace.
    pub(crate) fn forbidden(&mut self, namespace: &str) -> bool {
        let awaited = self.known.get_mut(namespace).filter(|known| known.standing == Standing::Awaited);
        awaited.map(|known| known.standing = Standing::Forbidden).is_some()
    }

    /// Whether nobody of a namespace is known.
    pub(crate) fn is_empty(&self, namespace: &str) -> bool {
        self.known.get(namespace).is_none_or(|known| known.members.is_empty() && known.standing != Standing::Listed)
    }

    /// Whether no namespace is awaited any more.
    pub(crate) fn complete(&self) -> bool {
        self.known.values().all(|known| known.standing != Standing::Awaited)
    }

    /// Everybody who is known.
    pub(crate) fn roster(&self) -> Roster {
        let mut roster = Roster::default();
        for known in self.known.values().flat_map(|known| known.members.values()) {
            roster.insert(known.member.clone());
        }
        roster
    }
}

impl Namespace {
    /// What an object says, beside what is known of it; nothing for one that is deleted or on its way to be: nothing
    /// undoes that, however long a finalizer keeps it.
    fn take(&mut self, namespace: &str, identity: &AgentIdentity) -> Option<Known> {
        if identity.metadata.deletion_timestamp.is_some() {
            self.bury(identity);
        }
        let uid = identity.metadata.uid.as_ref();
        if uid.is_some_and(|uid| self.gone.contains(uid)) {
            return None;
        }
        let version = identity.metadata.resource_version.as_ref().and_then(|version| version.parse().ok());
        let new = Known { member: member(namespace, identity), version };
        let older = |known: &&Known| known.member.uid.as_ref() == uid && new.version < known.version;
        let Some(known) = self.members.get(&new.member.name).filter(older) else { return Some(new) };
        // From an API server that lags, or an etcd that was set back: what is stricter counts, on either side.
        let suspended = known.member.suspended || new.member.suspended;
        let min_not_before = known.member.min_not_before.max(new.member.min_not_before);
        Some(Known { member: Member { suspended, min_not_before, ..known.member.clone() }, version: known.version })
    }

    /// Remembers a deletion.
    fn bury(&mut self, identity: &AgentIdentity) {
        let Some(uid) = identity.metadata.uid.clone().filter(|uid| !self.gone.contains(uid)) else { return };
        if self.gone.len() >= MOST_GONE {
            self.gone.pop_front();
        }
        self.gone.push_back(uid);
    }
}

/// When somebody last wrote it, other than its status, as the API server dates that.
fn written(identity: &AgentIdentity) -> Option<SystemTime> {
    let entries = identity.metadata.managed_fields.iter().flatten();
    let specs = entries.filter(|entry| entry.subresource.as_deref().unwrap_or_default().is_empty());
    specs.filter_map(|entry| entry.time.as_ref()).map(|time| SystemTime::from(time.0)).max()
}

/// What a fleet knows of an identity.
#[must_use]
pub fn member(namespace: &str, identity: &AgentIdentity) -> Member {
    let created = identity.metadata.creation_timestamp.as_ref().map_or(0, |time| time.0.as_second());
    let revoked = identity.spec.revoke_before.as_ref().map_or(i64::MIN, |time| begun(time.0));
    Member {
        namespace: namespace.to_owned(),
        name: identity.name_any(),
        groups: identity.spec.groups.clone(),
        suspended: identity.spec.suspend,
        // An identity that was made again does not revive the certificates of the one before.
        min_not_before: created.max(revoked),
        uid: identity.metadata.uid.clone(),
        addresses: addresses(identity),
    }
}

/// The first whole second at or after a time: certificates know no others, and one of the second in which it was
/// revoked is from before.
fn begun(time: jiff::Timestamp) -> i64 {
    time.as_second().saturating_add(i64::from(time.subsec_nanosecond() > 0))
}

/// None where it is not bound. The operator looks the addresses up; what it has not looked up for the binding as
/// it stands now counts for nothing, so that a change of the spec never leaves the old pods in.
fn addresses(identity: &AgentIdentity) -> Option<Vec<IpAddr>> {
    identity.spec.bound_to.as_ref()?;
    let status = identity.status.as_ref();
    let told = status.map(|status| status.addresses_for(&identity.spec)).unwrap_or_default();
    Some(told.iter().filter_map(|address| address.parse().ok()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use sallyport_crds::{AgentIdentitySpec, AgentIdentityStatus, BoundTo, PodSelector};

    fn identity(name: &str, created: i64) -> AgentIdentity {
        let mut identity = AgentIdentity::new(name, AgentIdentitySpec::default());
        identity.metadata.creation_timestamp = Some(Time(jiff::Timestamp::from_second(created).unwrap()));
        identity
    }

    fn names(namespaces: &Namespaces) -> Vec<String> {
        namespaces.roster().members.into_keys().map(|(namespace, name)| format!("{namespace}/{name}")).collect()
    }

    fn list(namespaces: &mut Namespaces, namespace: &str, names: &[&str]) {
        namespaces.hear(namespace, Event::Init);
        for name in names {
            assert!(!namespaces.hear(namespace, Event::InitApply(identity(name, 1))), "half a list changes nothing");
        }
        assert!(namespaces.hear(namespace, Event::InitDone));
    }

    #[test]
    fn the_roster_is_complete_when_every_namespace_is_listed_or_refused() {
        let mut namespaces = Namespaces::default();
        let added = namespaces.speak_of(&["a".into(), "b".into()], &Roster::default());
        assert_eq!(added, ["a", "b"]);
        list(&mut namespaces, "a", &["bot"]);
        assert!(!namespaces.complete());
        assert!(namespaces.forbidden("b"));
        assert!(namespaces.complete());
        assert_eq!(names(&namespaces), ["a/bot"]);
        assert!(!namespaces.forbidden("a"), "what was listed stays");
        assert_eq!(names(&namespaces), ["a/bot"]);
    }

    #[test]
    fn a_new_list_replaces_the_old_one_only_when_it_is_whole() {
        let mut namespaces = Namespaces::default();
        namespaces.speak_of(&["a".into()], &Roster::default());
        list(&mut namespaces, "a", &["one", "two"]);
        namespaces.hear("a", Event::Init);
        namespaces.hear("a", Event::InitApply(identity("two", 1)));
        assert_eq!(names(&namespaces), ["a/one", "a/two"]);
        namespaces.hear("a", Event::InitDone);
        assert_eq!(names(&namespaces), ["a/two"]);
        assert!(namespaces.hear("a", Event::Delete(identity("two", 1))));
        assert!(names(&namespaces).is_empty());
    }

    #[test]
    fn an_awaited_namespace_has_whom_it_had_before_the_restart_and_no_other_has() {
        let mut kept = Roster::default();
        for namespace in ["a", "b"] {
            kept.insert(Member { namespace: namespace.into(), name: "bot".into(), ..Member::default() });
        }
        let mut namespaces = Namespaces::default();
        namespaces.speak_of(&["a".into()], &kept);
        assert_eq!(names(&namespaces), ["a/bot"]);
        list(&mut namespaces, "a", &[]);
        assert!(names(&namespaces).is_empty());
    }

    #[test]
    fn only_what_takes_rights_away_is_a_revocation_and_it_is_as_old_as_its_write() {
        use k8s_openapi::apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry;
        let mut namespaces = Namespaces::default();
        namespaces.speak_of(&["a".into()], &Roster::default());
        list(&mut namespaces, "a", &["bot"]);
        let entry = |second, subresource: Option<&str>| ManagedFieldsEntry {
            time: Some(Time(jiff::Timestamp::from_second(second).unwrap())),
            subresource: subresource.map(str::to_owned),
            ..ManagedFieldsEntry::default()
        };
        let mut changed = identity("bot", 1);
        changed.metadata.managed_fields = Some(vec![entry(10, None), entry(20, None), entry(30, Some("status"))]);
        changed.spec.groups = vec!["more".into()];
        assert_eq!(namespaces.revocation("a", &Event::Apply(changed.clone())), None);
        changed.spec.suspend = true;
        let written = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(20);
        assert_eq!(namespaces.revocation("a", &Event::Apply(changed.clone())), Some(written));
        namespaces.hear("a", Event::Apply(changed.clone()));
        assert_eq!(namespaces.revocation("a", &Event::Apply(changed.clone())), None, "it was suspended before");
        changed.spec.revoke_before = Some(Time(jiff::Timestamp::from_second(15).unwrap()));
        assert_eq!(namespaces.revocation("a", &Event::Apply(changed)), Some(written));
    }

    fn written_as(version: u64, uid: &str, suspend: bool) -> AgentIdentity {
        let mut written = identity("bot", 1);
        written.metadata.resource_version = Some(version.to_string());
        written.metadata.uid = Some(uid.into());
        written.spec.suspend = suspend;
        written
    }

    #[test]
    fn an_api_server_that_lags_undoes_no_suspension_and_no_revocation() {
        let mut namespaces = Namespaces::default();
        namespaces.speak_of(&["a".into()], &Roster::default());
        let mut relist = |objects: Vec<AgentIdentity>| {
            namespaces.hear("a", Event::Init);
            for object in objects {
                namespaces.hear("a", Event::InitApply(object));
            }
            namespaces.hear("a", Event::InitDone);
            namespaces.roster().member("a", "bot").map(|bot| (bot.suspended, bot.min_not_before))
        };
        let mut revoked = written_as(9, "one", true);
        revoked.spec.revoke_before = Some(Time(jiff::Timestamp::from_second(50).unwrap()));
        assert_eq!(relist(vec![revoked]), Some((true, 50)));
        assert_eq!(relist(vec![written_as(8, "one", false)]), Some((true, 50)), "from before");
        // One that was set back is obeyed where it takes rights away.
        let mut later = written_as(7, "one", false);
        later.spec.revoke_before = Some(Time(jiff::Timestamp::from_second(70).unwrap()));
        assert_eq!(relist(vec![later]), Some((true, 70)));
        assert_eq!(relist(vec![written_as(10, "one", false)]), Some((false, 1)), "lifted since");
        assert_eq!(relist(vec![written_as(3, "two", true)]), Some((true, 1)), "another object");
        assert_eq!(relist(vec![]), None);
    }

    #[test]
    fn who_is_deleted_is_gone_though_a_finalizer_or_an_old_list_still_shows_it() {
        let mut namespaces = Namespaces::default();
        namespaces.speak_of(&["a".into()], &Roster::default());
        namespaces.hear("a", Event::Init);
        namespaces.hear("a", Event::InitApply(written_as(1, "one", false)));
        namespaces.hear("a", Event::InitDone);
        let mut ending = written_as(2, "one", false);
        ending.metadata.deletion_timestamp = Some(Time(jiff::Timestamp::from_second(9).unwrap()));
        assert!(namespaces.hear("a", Event::Apply(ending)), "its finalizer is another's matter");
        assert!(names(&namespaces).is_empty());
        namespaces.hear("a", Event::Init);
        namespaces.hear("a", Event::InitApply(written_as(1, "one", false)));
        namespaces.hear("a", Event::InitDone);
        assert!(names(&namespaces).is_empty(), "a list from before");
        assert!(namespaces.hear("a", Event::Apply(written_as(5, "two", false))));
        assert_eq!(names(&namespaces), ["a/bot"], "made again");
        assert!(namespaces.hear("a", Event::Delete(written_as(6, "two", false))));
        assert!(!namespaces.hear("a", Event::Apply(written_as(5, "two", false))));
        for number in 0..2 * MOST_GONE as u64 {
            namespaces.hear("a", Event::Delete(written_as(7, &number.to_string(), false)));
        }
        assert_eq!(namespaces.known["a"].gone.len(), MOST_GONE);
    }

    #[test]
    fn an_identity_made_again_or_revoked_kills_older_certificates() {
        let mut identity = identity("bot", 100);
        identity.metadata.uid = Some("one".into());
        assert_eq!((member("a", &identity).min_not_before, member("a", &identity).uid.as_deref()), (100, Some("one")));
        identity.spec.revoke_before = Some(Time(jiff::Timestamp::from_second(50).unwrap()));
        assert_eq!(member("a", &identity).min_not_before, 100);
        identity.spec.revoke_before = Some(Time(jiff::Timestamp::from_second(150).unwrap()));
        assert_eq!(member("a", &identity).min_not_before, 150);
        // Within a second: what was issued in that second is from before.
        identity.spec.revoke_before = Some(Time(jiff::Timestamp::new(150, 1).unwrap()));
        assert_eq!(member("a", &identity).min_not_before, 151);
    }

    fn bound(app: &str) -> BoundTo {
        let match_labels = [("app".to_owned(), app.to_owned())].into();
        BoundTo { pod_selector: PodSelector { match_labels, ..PodSelector::default() } }
    }

    #[test]
    fn a_bound_identity_has_the_addresses_that_answer_its_binding_as_it_stands() {
        let mut identity = identity("bot", 100);
        let status = AgentIdentityStatus {
            bound_for: Some("app=migrate".into()),
            bound_addresses: vec!["10.0.0.1".into(), "nonsense".into(), "fd00::1".into()],
            ..AgentIdentityStatus::default()
        };
        // Not bound: whatever its status still says.
        identity.status = Some(status.clone());
        assert_eq!(member("a", &identity).addresses, None);
        // Bound, and not answered yet.
        identity.spec.bound_to = Some(bound("migrate"));
        identity.status = None;
        assert_eq!(member("a", &identity).addresses, Some(Vec::new()));
        identity.status = Some(status);
        let told: Vec<IpAddr> = vec!["10.0.0.1".parse().unwrap(), "fd00::1".parse().unwrap()];
        assert_eq!(member("a", &identity).addresses, Some(told.clone()));
        // Another field changes: the answer stands.
        identity.metadata.generation = Some(9);
        identity.spec.groups = vec!["more".into()];
        assert_eq!(member("a", &identity).addresses, Some(told));
        // Another binding: nobody, until it is answered.
        identity.spec.bound_to = Some(bound("other"));
        assert_eq!(member("a", &identity).addresses, Some(Vec::new()));
        identity.spec.bound_to = Some(bound("migrate"));
        identity.spec.service_account_name = Some("bot".into());
        assert_eq!(member("a", &identity).addresses, Some(Vec::new()));
    }
}

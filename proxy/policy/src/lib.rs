//! What is decided, and how: the bundle, the roster, and one pure function over them.
//!
//! Owns the contract between operator and proxy (the serialised [`Bundle`]) and the decision itself.
//! Touches its arguments only: no clock (time is an argument), no environment, no files, no hash-map order.
//! Keeps the invariant that nothing is allowed unless a rule in force says so about *known* facts.

#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        reason = "a failing test should stop where it fails"
    )
)]

mod action;
mod ask;
mod bundle;
mod condition;
mod decide;
mod fields;
#[cfg(test)]
mod fixture;
mod mask;
mod observe;
mod pattern;
mod recording;
mod roster;
mod spiffe;
mod terms;
mod trust;
mod world;

pub use action::{Action, Attribute, Fact, Object, ObjectKind, Operation, QualifiedName, Usage};
pub use ask::{
    Approval, Ask, AskTerms, LONGEST_PARAMETER, NotApproved, NotBy, Reply, Tally, can_be_shown, command_digest,
};
pub use bundle::{
    BUNDLE_VERSION, Bundle, BundleError, Effect, Matcher, ObjectMatcher, PolicyEntry, Rule, Subject, TargetRef,
    TlsMode, Upstream,
};
pub use condition::{Condition, ConditionError, LONGEST_CONDITION, Outcome, SessionFacts, When, condition_facts};
pub use decide::{
    Denial, DenyReason, JudgedCondition, RuleRef, Session, Verdict, conditions, decide, is_outside_binding, standing,
};
pub use fields::{Column, FieldNames, Fields, Shown};
pub use mask::{Detector, Mask, MaskMethod, MaskPlan, masks, masks_in_force};
pub use observe::{Mode, would_have};
pub use pattern::{ColumnPattern, NamePattern, PatternError};
pub use recording::{Durability, OnFailure, Recording, RecordingLevel, Span, Store};
pub use roster::{Member, Roster};
pub use spiffe::{IdentityName, SpiffeError};
pub use terms::{Allowance, Bound, FleetTerms, OnRevocation, Seats, SessionTerms, Terms, terms};
pub use trust::digest;
pub use world::World;

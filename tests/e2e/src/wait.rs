//! Waiting for conditions, each with a deadline.
//! It reads objects and asks questions; it changes nothing.
//! What was waited for, and what was there instead, is in the error.

use std::fmt::Debug;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use kube::runtime::wait::await_condition;
use kube::{Api, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// How long anything of a story may take. Seconds are usual; a machine that compiles beside it is slower.
pub const LIMIT: Duration = Duration::from_secs(90);
const PAUSE: Duration = Duration::from_millis(50);

/// Asks until there is an answer. For what cannot be watched.
pub async fn eventually<T, F, Fut>(what: &str, mut ask: F) -> Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<Option<T>>>,
{
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(answer) = ask().await? {
            return Ok(answer);
        }
        if Instant::now() > deadline {
            bail!("{what} did not come within {LIMIT:?}");
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// Watches one object until it is as told; `None` stands for an object that is not there.
pub(crate) async fn watched<K>(api: Api<K>, name: &str, what: &str, is: impl Fn(Option<&Value>) -> bool) -> Result<()>
where
    K: Resource + Clone + Debug + Send + Serialize + DeserializeOwned + 'static,
    K::DynamicType: Default,
{
    let wanted = |object: Option<&K>| {
        let value = object.and_then(|object| serde_json::to_value(object).ok());
        is(value.as_ref())
    };
    match tokio::time::timeout(LIMIT, await_condition(api.clone(), name, wanted)).await {
        Ok(seen) => seen.map(drop).with_context(|| format!("{name}: {what} cannot be watched for")),
        Err(_) => {
            let last = api.get_opt(name).await.ok().flatten().map(|object| serde_json::to_value(object)).transpose()?;
            bail!("{name}: {what} did not come within {LIMIT:?}; it is now {last:#?}")
        }
    }
}

/// The newest word on a condition: its status, reason and message, of the object as it is now. All targets of a policy
/// count: the first that is not `True` speaks.
pub fn condition<'v>(object: &'v Value, name: &str) -> Option<(&'v str, &'v str, &'v str)> {
    let generation = object.pointer("/metadata/generation")?;
    let ancestors = object.pointer("/status/ancestors").and_then(Value::as_array).into_iter().flatten();
    let places = object.pointer("/status/conditions").into_iter().chain(ancestors.filter_map(|a| a.get("conditions")));
    let text = |condition: &'v Value, field: &str| condition.get(field).and_then(Value::as_str).unwrap_or_default();
    let mut found = None;
    for one in places.filter_map(Value::as_array).flatten().filter(|one| text(one, "type") == name) {
        if one.get("observedGeneration") != Some(generation) {
            return None;
        }
        let told = (text(one, "status"), text(one, "reason"), text(one, "message"));
        if found.is_none() || told.0 != "True" {
            found = Some(told);
        }
    }
    found
}

/// Whether a condition is `True` of the object as it is now.
pub fn holds(object: Option<&Value>, name: &str) -> bool {
    object.and_then(|object| condition(object, name)).is_some_and(|(status, ..)| status == "True")
}

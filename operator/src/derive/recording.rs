//! What a target demands of its records, as its bundle says it.
//!
//! Owns that translation. Touches nothing. Invariant: what the object says is in the bundle, whole, or the object
//! is told why not.

use std::time::Duration;

use kube::ResourceExt;
use sallyport_crds::{
    OnRecordFailure, ProtectedTarget, RecordDurability, RecordSpan, RecordStore, RecordingLevel, RecordingSpec, S3Store,
};
use sallyport_policy as policy;

/// The demands of a target; of what is not acceptable, the usual.
pub(super) fn demands(target: &ProtectedTarget) -> policy::Recording {
    let spec: &RecordingSpec = &target.spec.recording;
    policy::Recording {
        level: match spec.level {
            RecordingLevel::Commands => policy::RecordingLevel::Commands,
            RecordingLevel::Full => policy::RecordingLevel::Full,
            RecordingLevel::None => policy::RecordingLevel::None,
        },
        durability: match spec.durability {
            RecordDurability::Written => policy::Durability::Written,
            RecordDurability::Synced => policy::Durability::Synced,
        },
        on_failure: match spec.on_failure {
            OnRecordFailure::Refuse => policy::OnFailure::Refuse,
            OnRecordFailure::Continue => policy::OnFailure::Continue,
        },
        rotation: span("recording.rotation", spec.rotation.as_ref()).unwrap_or_default(),
        retention: span("recording.retention", spec.retention.as_ref()).unwrap_or_default(),
        store: spec.store.s3.as_ref().map(|s3| store(target, s3)),
    }
}

/// # Errors
/// With the field and the reason, where the demands cannot be met.
pub(super) fn acceptable(spec: &RecordingSpec) -> Result<(), String> {
    let store: &RecordStore = &spec.store;
    if store.empty_dir.is_some() == store.persistent_volume_claim.is_some() {
        return Err("recording.store: set exactly one of emptyDir and persistentVolumeClaim".to_owned());
    }
    span("recording.rotation", spec.rotation.as_ref())?;
    let retention = span("recording.retention", spec.retention.as_ref())?;
    let room = room(store)?;
    if let (Some(bytes), Some(room)) = (retention.bytes, room)
        && bytes > room / 4 * 3
    {
        let most = room / 4 * 3 / 1024 / 1024;
        return Err(format!(
            "recording.retention.size: records would be refused before it is reached: at most {most}Mi with this \
             sizeLimit of emptyDir"
        ));
    }
    Ok(())
}

/// Bytes that a replica may fill of its directory on the node. A kubelet ends a pod that takes more than `sizeLimit`,
/// and its records with it: an eighth is left for files that are being compressed.
///
/// # Errors
/// When that is no quantity, or too little to record at all.
pub(super) fn room(store: &RecordStore) -> Result<Option<u64>, String> {
    let Some(limit) = store.empty_dir.as_ref().map(|store| store.size_limit.as_str()) else { return Ok(None) };
    let bytes = bytes("recording.store.emptyDir.sizeLimit", limit)? / 8 * 7;
    if bytes < 7 * 1024 * 1024 {
        return Err(format!("recording.store.emptyDir.sizeLimit: {limit} is less than 8Mi, which records need"));
    }
    Ok(Some(bytes))
}

fn span(field: &str, span: Option<&RecordSpan>) -> Result<policy::Span, String> {
    let RecordSpan { size, age } = span.cloned().unwrap_or_default();
    let bytes = size.map(|size| bytes(&format!("{field}.size"), &size)).transpose()?;
    let age = age.map(|age| super::identity::duration(&format!("{field}.age"), &age)).transpose()?;
    Ok(policy::Span { bytes, seconds: age.as_ref().map(Duration::as_secs) })
}

/// A quantity in whole bytes.
fn bytes(field: &str, text: &str) -> Result<u64, String> {
    let refused = || format!("{field}: {text:?} is no size: write it like 64Mi or 10Gi");
    let at = text.find(|character: char| !character.is_ascii_digit() && character != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at_checked(at).ok_or_else(refused)?;
    let (kilo, kibi) = (1000_u128, 1024_u128);
    let (times, parts) = match suffix {
        "" => (1, 1),
        "m" => (1, 1000),
        "k" => (kilo, 1),
        "M" => (kilo.pow(2), 1),
        "G" => (kilo.pow(3), 1),
        "T" => (kilo.pow(4), 1),
        "Ki" => (kibi, 1),
        "Mi" => (kibi.pow(2), 1),
        "Gi" => (kibi.pow(3), 1),
        "Ti" => (kibi.pow(4), 1),
        _ => return Err(refused()),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let places = u32::try_from(fraction.len()).ok().filter(|places| *places <= 3).ok_or_else(refused)?;
    let digits: u128 = format!("{whole}{fraction}").parse().map_err(|_| refused())?;
    let bytes = digits.checked_mul(times).ok_or_else(refused)? / parts / 10_u128.pow(places);
    u64::try_from(bytes).map_err(|_| refused())
}

fn store(target: &ProtectedTarget, s3: &S3Store) -> policy::Store {
    let (namespace, name) = (target.namespace().unwrap_or_default(), target.name_any());
    let prefix = s3.prefix.as_ref().map_or_else(String::new, |prefix| format!("{prefix}/"));
    policy::Store {
        endpoint: s3.endpoint.clone(),
        region: s3.region.clone(),
        bucket: s3.bucket.clone(),
        prefix: format!("{prefix}{namespace}/{name}/"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_whole_bytes() {
        let read = |text| bytes("size", text);
        assert_eq!(read("64Mi"), Ok(64 * 1024 * 1024));
        assert_eq!(read("1.5Gi"), Ok(3 * 512 * 1024 * 1024));
        assert_eq!(read("10k"), Ok(10_000));
        assert_eq!(read("2500m"), Ok(2));
        for bad in ["", "Mi", "1.2345Mi", "1Pi", "99999999999999999999Ti", "1..2"] {
            assert!(read(bad).unwrap_err().contains("is no size"), "{bad}");
        }
    }
}

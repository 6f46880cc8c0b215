//! One long answer, direct, through pgbouncer, and through the proxy: as it is, with a masked column, with every value
//! looked into as well, and with all that is shown on record. It starts all of them on loopback and reads processor time from /proc. Ratios to direct.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use sallyport_conformance::clients::{run, texts};
use sallyport_conformance::{Guarded, Way, policy};
use sallyport_policy::{ColumnPattern, Detector, Mask, MaskMethod, PolicyEntry, Recording, RecordingLevel};

use crate::throughput::{Bouncer, ticks};

const ROUNDS: usize = 3;
const ROWS: u32 = 1_000_000;
/// Made once; each row has 200 bytes of values.
const WIDE: &str = "create table wide as select n::int as id, 'customer number ' || lpad(n::text, 8, '0') as name,
    'someone.' || lpad(n::text, 8, '0') || '@mail.example' as email, repeat(md5(n::text), 4) || '   ' as note
    from generate_series(10000001, 11000000) n";
const SELECT: &str = "select id, name, email, note from wide";

/// What stands between psql and the server.
enum Through {
    Nothing,
    Bouncer,
    Proxy { policies: Vec<PolicyEntry>, level: RecordingLevel },
}

/// Runs the whole table.
pub(crate) async fn table() -> Result<()> {
    let guarded = Guarded::start(policy::allow_all()).await?;
    guarded.server.exec_sql(WIDE).await?;
    guarded.server.exec_sql("vacuum (analyze, freeze) wide").await?;
    let bouncer = Bouncer::start(&guarded).await?;
    let bytes = guarded
        .server
        .exec_sql("select sum(length(id::text) + length(name) + length(email) + length(note))::text from wide")
        .await?;
    let bytes: u64 = bytes.first().and_then(|row| row.first()?.as_ref()?.parse().ok()).context("no size")?;
    let looked_into = [Detector::CreditCard, Detector::Iban, Detector::Email];
    let ways = [
        ("direct TLS", Through::Nothing),
        ("pgbouncer", Through::Bouncer),
        ("sallyport", proxy(policy::allow_all(), RecordingLevel::Commands)),
        ("sallyport, results on record", proxy(policy::allow_all(), RecordingLevel::Full)),
        ("sallyport, a column masked", proxy(masked(&[]), RecordingLevel::Commands)),
        ("sallyport, a column masked, results on record", proxy(masked(&[]), RecordingLevel::Full)),
        ("sallyport, and all values looked into", proxy(masked(&looked_into), RecordingLevel::Commands)),
    ];
    let mut samples = [const { Vec::new() }; 7];
    for _ in 0..ROUNDS {
        for ((_, through), samples) in ways.iter().zip(&mut samples) {
            let (conninfo, middle, masked) = match through {
                Through::Nothing => (guarded.conninfo(Way::Direct), None, false),
                Through::Bouncer => (bouncer.conninfo.clone(), Some(bouncer.id()), false),
                Through::Proxy { policies, level } => {
                    guarded.record(Recording::at(*level), policies.clone()).await?;
                    let masked = policies.iter().any(|policy| !policy.masks.is_empty());
                    (guarded.conninfo(Way::Proxied), guarded.proxy_pid(), masked)
                }
            };
            samples.push(select(&guarded, &conninfo, middle, masked)?);
        }
    }
    let mib = bytes as f64 / f64::from(1 << 20);
    println!(
        "one select of {ROWS} rows, {mib:.0} MiB of values, medians of {ROUNDS} rounds in turn; ratios to direct TLS"
    );
    println!("| way | seconds | ratio | MiB/s | middle's processor time, ms a MiB |");
    println!("|---|---|---|---|---|");
    let direct = samples.first().map(|samples| median(samples).0).context("nothing was measured")?;
    for ((name, _), samples) in ways.iter().zip(&samples) {
        let (took, middle) = median(samples);
        let seconds = took.as_secs_f64();
        let ratio = seconds / direct.as_secs_f64();
        println!("| {name} | {seconds:.2} | {ratio:.2} | {:.0} | {:.2} |", mib / seconds, middle as f64 * 10.0 / mib);
    }
    println!();
    Ok(())
}

const fn proxy(policies: Vec<PolicyEntry>, level: RecordingLevel) -> Through {
    Through::Proxy { policies, level }
}

/// One select by psql: how long it took, and the middle's ticks.
fn select(guarded: &Guarded, conninfo: &str, middle: Option<u32>, masked: bool) -> Result<(Duration, u64)> {
    let psql = |sql: &str, out: &str| {
        let mut psql = Command::new(guarded.server.program("psql"));
        psql.args(["-X", "-q", "-At", "-o", out, "-c", sql, conninfo]);
        run(psql, "")
    };
    // What is measured is what it is called.
    let (shown, errors) = texts(&psql(&format!("{SELECT} where id = 10000001"), "/dev/stdout")?);
    ensure!(shown.contains("someone.10000001@") != masked, "masked: {masked}, and it shows {shown} {errors}");
    let before = middle.map_or(Ok(0), ticks)?;
    let began = Instant::now();
    let output = psql(SELECT, "/dev/null")?;
    let took = began.elapsed();
    ensure!(output.status.success(), "psql failed: {}", texts(&output).1);
    Ok((took, middle.map_or(Ok(0), ticks)?.saturating_sub(before)))
}

fn median(samples: &[(Duration, u64)]) -> (Duration, u64) {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

fn masked(detect: &[Detector]) -> Vec<PolicyEntry> {
    let mut policies = policy::allow_all();
    let column = ColumnPattern::parse("public.wide.email").into_iter().collect();
    let by_column = Mask { columns: column, detect: Vec::new(), method: MaskMethod::Partial, strict: false };
    let by_content = Mask { columns: Vec::new(), detect: detect.to_vec(), method: MaskMethod::Redact, strict: false };
    for policy in &mut policies {
        policy.masks = vec![by_column.clone()];
        if !detect.is_empty() {
            policy.masks.push(by_content.clone());
        }
    }
    policies
}

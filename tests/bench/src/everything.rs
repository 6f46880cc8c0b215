//! pgbench with everything on: rules with conditions, masks by column and by content on what it reads, limits, and records
//! that the disk has; beside direct, pgbouncer and the proxy with rules alone. Ratios to direct.

use std::process::Command;

use anyhow::{Context, Result, ensure};
use sallyport_conformance::clients::{run, texts};
use sallyport_conformance::{Guarded, Way, policy};
use sallyport_policy::{
    Attribute, ColumnPattern, Condition, Detector, Durability, Effect, Mask, MaskMethod, PolicyEntry, Recording,
    RecordingLevel, SessionTerms, When,
};

use crate::throughput::{ROUNDS, begin, hundred_rules, measure, median};

/// What the proxy has to do for each command.
struct Work {
    name: &'static str,
    policies: Vec<PolicyEntry>,
    recording: Recording,
}

/// Runs the whole table.
pub(crate) async fn table(seconds: u32) -> Result<()> {
    let (guarded, bouncer, pgbench) = begin().await?;
    let written = Recording::at(RecordingLevel::Commands);
    let synced = Recording { durability: Durability::Synced, ..Recording::at(RecordingLevel::Commands) };
    let all = [
        Work { name: "sallyport, 100 rules, recorded", policies: hundred_rules(), recording: written.clone() },
        Work {
            name: "and conditions, limits, masks by column and content",
            policies: everything()?,
            recording: written,
        },
        Work { name: "and records synced", policies: everything()?, recording: synced },
    ];
    println!("pgbench, 8 clients, medians of {ROUNDS} rounds of {seconds} s in turn; ratios to direct TLS");
    println!("| script | mode | way | tps | cpu/tx | middle cpu, us a transaction |");
    println!("|---|---|---|---|---|---|");
    for (script, flag) in [("select-only", "-S"), ("tpcb-like", "-N")] {
        for mode in ["simple", "prepared"] {
            let mut samples: Vec<_> = (0..all.len() + 2).map(|_| Vec::new()).collect();
            for _ in 0..ROUNDS {
                let mut of_round = Vec::new();
                of_round.push(measure(&pgbench, &guarded.conninfo(Way::Direct), None, mode, flag, 8, seconds)?);
                of_round.push(measure(&pgbench, &bouncer.conninfo, Some(bouncer.id()), mode, flag, 8, seconds)?);
                for work in &all {
                    guarded.record(work.recording.clone(), work.policies.clone()).await?;
                    let masks = work.policies.iter().any(|policy| !policy.masks.is_empty());
                    check(&guarded, masks)?;
                    let (conninfo, proxy) = (guarded.conninfo(Way::Proxied), guarded.proxy_pid());
                    of_round.push(measure(&pgbench, &conninfo, proxy, mode, flag, 8, seconds)?);
                }
                samples.iter_mut().zip(of_round).for_each(|(samples, sample)| samples.push(sample));
            }
            let names = ["direct TLS", "pgbouncer"].into_iter().chain(all.iter().map(|work| work.name));
            let direct = samples.first().map(|samples| median(samples)).context("nothing was measured")?;
            for (name, samples) in names.zip(&samples) {
                let sample = median(samples);
                let (tps, cpu) = (sample.tps / direct.tps, sample.cpu / direct.cpu);
                println!("| {script} | {mode} | {name} | {tps:.2} | {cpu:.2} | {:.0} |", sample.middle);
            }
        }
    }
    println!();
    Ok(())
}

/// What is measured is what it is called.
fn check(guarded: &Guarded, masked: bool) -> Result<()> {
    let mut psql = Command::new(guarded.server.program("psql"));
    psql.args(["-X", "-At", "-c", "select filler is null, filler from pgbench_accounts where aid = 7"]);
    psql.arg(guarded.conninfo(Way::Proxied));
    let (shown, errors) = texts(&run(psql, "")?);
    ensure!((shown.trim() != "f|") == masked, "masked: {masked}, and it shows {shown:?} {errors}");
    Ok(())
}

/// The hundred rules, one of which asks for a WHERE and one of which looks at the clock; what every command reads is masked.
fn everything() -> Result<Vec<PolicyEntry>> {
    let mut policies = hundred_rules();
    let columns = ["public.pgbench_accounts.filler", "public.pgbench_history.filler", "public.customers.email"];
    let columns = columns.iter().filter_map(|column| ColumnPattern::parse(column).ok()).collect();
    let by_column = Mask { columns, detect: Vec::new(), method: MaskMethod::Null, strict: false };
    let detect = vec![Detector::CreditCard, Detector::Iban, Detector::Email];
    let by_content = Mask { columns: Vec::new(), detect, method: MaskMethod::Redact, strict: false };
    let mut bounded = policy::rule("no-unbounded-writes", Effect::Deny, &["Update", "Delete"]);
    bounded.matcher.attributes = vec![(Attribute::Unbounded, true)];
    let mut hours = policy::rule("nobody-of-another-team", Effect::Deny, &["Update", "Select"]);
    let condition = "agent.name != 'bot' || now < timestamp('2020-01-01T00:00:00Z')";
    hours.when = Some(When::Holds(Condition::parse(condition).context("the condition")?));
    for policy in &mut policies {
        policy.rules.extend([bounded.clone(), hours.clone()]);
        policy.masks = vec![by_column.clone(), by_content.clone()];
        policy.sessions = SessionTerms {
            duration_seconds: Some(3600),
            rows_per_command: Some(100_000),
            bytes_per_command: Some(1 << 30),
            commands_per_minute: Some(100_000_000),
            concurrent_sessions: Some(100),
            ..SessionTerms::default()
        };
    }
    Ok(policies)
}

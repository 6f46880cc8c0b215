//! From the write of a policy to the first refused statement of an open session, over many edits.
//! It runs a real API server, the operator and a proxy as processes on loopback. It prints percentiles, and the
//! memory of both at rest.

use std::time::Instant;

use anyhow::{Result, ensure};

use crate::scene::{PATIENCE, STATEMENT, Scene, rank};
use crate::throughput::rss;

const EDITS: usize = 100;

/// Runs the edits and prints what they took.
pub(crate) async fn table() -> Result<()> {
    let scene = Scene::start(100).await?;
    let (agent, _) = scene.agent(None).await?;
    let proxy = scene.proxy("bench")?;
    let (session, _ended) = scene.session(&proxy, &agent).await?;
    let idle = (rss(proxy.process.id())?, rss(scene.operator.id())?);

    let (mut refused_after, mut allowed_after) = (Vec::new(), Vec::new());
    for edit in 0..EDITS * 2 {
        let allow = edit % 2 == 1;
        let began = Instant::now();
        scene.patch_policy(allow).await?;
        while session.simple_query(STATEMENT).await.is_ok() != allow {
            ensure!(began.elapsed() < PATIENCE, "edit {edit} never came through");
        }
        if allow { allowed_after.push(began.elapsed()) } else { refused_after.push(began.elapsed()) }
    }
    println!(
        "from the write of a policy to the first statement judged by it, {EDITS} edits each way, one open session"
    );
    println!("| edit | p50 | p99 | worst |");
    println!("|---|---|---|---|");
    for (name, mut times) in [("allow to refuse", refused_after), ("refuse to allow", allowed_after)] {
        times.sort();
        println!("| {name} | {:.1?} | {:.1?} | {:.1?} |", rank(&times, 50), rank(&times, 99), rank(&times, 100));
    }
    println!();
    println!("resident memory at rest: proxy {} KiB, operator {} KiB (one target, one identity)", idle.0, idle.1);
    println!();
    Ok(())
}

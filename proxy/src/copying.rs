//! `sallyport-proxy copy`: the recordings of a replica, as they are, through a pipe; and the other end of that pipe.
//!
//! Owns the form on the pipe. Touches the records directory, standard output, and the directory copied to. Invariants:
//! the copy is byte for byte what a check needs; a pipe that broke is told from recordings that end early; whoever
//! sends may be hostile and writes nowhere but in new files of our names.
//!
//! For each file a line `{"file":"NAME","bytes":N}` and that many bytes, at the end `{"end":FILES}`.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use anyhow::Context;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};

use crate::config::CopyArguments;
use crate::stored::{places, stem_and_number};

/// Bytes of a line that heads a file.
const HEAD: u64 = 1024;
/// Bytes that are taken from one replica at most.
const MOST: u64 = 16 * 1024 * 1024 * 1024;
/// Bytes that are read at a time.
const PIECE: usize = 64 * 1024;

#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Heading {
    File { file: String, bytes: u64 },
    End { end: u64 },
}

/// Writes the recordings that the arguments say to standard output.
///
/// # Errors
/// When the directory or standard output cannot be used.
pub fn send_recordings(arguments: &CopyArguments) -> anyhow::Result<()> {
    send(&arguments.records_dir, &mut io::stdout().lock())
}

fn send(directory: &Path, out: &mut impl Write) -> anyhow::Result<()> {
    let mut end = 0;
    for place in places(directory)? {
        let mut path = place.path;
        if !path.exists() {
            // It was compressed since it was listed.
            path.set_extension("jsonl.zst");
        }
        let file = match File::open(&path) {
            // It was removed since it was listed, as old ones are.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other.with_context(|| format!("{} cannot be read", path.display()))?,
        };
        let name = path.file_name().and_then(|name| name.to_str()).context("a name that is no text")?;
        // What is written meanwhile is left for the next time.
        let bytes = file.metadata()?.len();
        heading(&Heading::File { file: name.to_owned(), bytes }, out)?;
        let copied = io::copy(&mut file.take(bytes), out)?;
        anyhow::ensure!(copied == bytes, "{} became shorter while it was read", path.display());
        end += 1;
    }
    heading(&Heading::End { end }, out)?;
    Ok(out.flush()?)
}

fn heading(heading: &Heading, out: &mut impl Write) -> anyhow::Result<()> {
    let mut line = serde_json::to_vec(heading)?;
    line.push(b'\n');
    Ok(out.write_all(&line)?)
}

/// Takes recordings off a pipe into `directory`; how many files there were. Where two replicas share a volume, what
/// one of them has sent already is kept, the longer of two.
///
/// # Errors
/// When the pipe breaks, does not speak this form, sends more than 16 GiB, or the directory cannot be written.
pub async fn receive_recordings(pipe: impl AsyncRead + Unpin, directory: &Path) -> anyhow::Result<u64> {
    let mut pipe = BufReader::new(pipe);
    let (mut files, mut total) = (0, 0_u64);
    loop {
        match next_heading(&mut pipe).await? {
            Heading::End { end } => {
                anyhow::ensure!(end == files, "{end} recordings were announced and {files} came");
                return Ok(files);
            }
            Heading::File { file, bytes } => {
                anyhow::ensure!(is_our_name(&file), "{:?} is no name of a recording", file);
                total = total.saturating_add(bytes);
                anyhow::ensure!(total <= MOST, "more than {MOST} bytes of recordings: copy the volume by other means");
                take_file(&mut pipe, &directory.join(&file), bytes).await?;
                files += 1;
            }
        }
    }
}

async fn next_heading(pipe: &mut (impl AsyncBufRead + Unpin)) -> anyhow::Result<Heading> {
    let mut line = Vec::new();
    pipe.take(HEAD).read_until(b'\n', &mut line).await.context("the recordings stop in the middle")?;
    anyhow::ensure!(line.last() == Some(&b'\n'), "the recordings stop in the middle: try again");
    serde_json::from_slice(&line).context("this is no copy of recordings: the proxy may be older than this program")
}

async fn take_file(pipe: &mut (impl AsyncRead + Unpin), path: &Path, bytes: u64) -> anyhow::Result<()> {
    let unwritable = || format!("{} cannot be written", path.display());
    let known = std::fs::metadata(path).map_or(0, |known| known.len());
    let mut file = if known < bytes || bytes == 0 {
        let mut options = OpenOptions::new();
        Some(options.write(true).create(true).truncate(true).mode(0o600).open(path).with_context(unwritable)?)
    } else {
        None
    };
    let mut rest = bytes;
    let mut piece = vec![0; PIECE];
    while rest > 0 {
        let room = usize::try_from(rest).unwrap_or(PIECE).min(PIECE);
        let count = pipe.read(piece.get_mut(..room).unwrap_or_default()).await?;
        anyhow::ensure!(count > 0, "the recordings stop in the middle of a file: try again");
        if let Some(file) = &mut file {
            file.write_all(piece.get(..count).unwrap_or_default()).with_context(unwritable)?;
        }
        rest -= count as u64;
    }
    Ok(())
}

/// A name as this program gives them: it stays in its directory.
fn is_our_name(name: &str) -> bool {
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.');
    plain && name.len() <= 512 && !name.starts_with('.') && stem_and_number(name).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn received(pipe: &[u8]) -> (tempfile::TempDir, anyhow::Result<u64>) {
        let to = tempfile::tempdir().unwrap();
        let count = receive_recordings(pipe, to.path()).await;
        (to, count)
    }

    #[tokio::test]
    async fn what_comes_out_is_what_went_in_and_a_broken_pipe_is_told() {
        let from = tempfile::tempdir().unwrap();
        let files = [("pod-1-0.jsonl", "{\"a\":1}\n".repeat(20_000)), ("pod-1-1.jsonl", "{\"to".to_owned())];
        for (name, text) in &files {
            std::fs::write(from.path().join(name), text).unwrap();
        }
        std::fs::write(from.path().join("other"), "not a recording").unwrap();
        let mut pipe = Vec::new();
        send(from.path(), &mut pipe).unwrap();
        let (to, count) = received(&pipe).await;
        assert_eq!(count.unwrap(), 2);
        for (name, text) in &files {
            assert_eq!(&std::fs::read_to_string(to.path().join(name)).unwrap(), text);
        }
        assert!(!to.path().join("other").exists());
        for cut in [0, 1, 40, 100_000, pipe.len() - 1] {
            let (_, count) = received(&pipe[..cut]).await;
            assert!(count.unwrap_err().to_string().contains("stop in the middle"), "{cut}");
        }
        // A second replica with the same volume, an instant earlier.
        let fewer = b"{\"file\":\"pod-1-0.jsonl\",\"bytes\":3}\nabc{\"end\":1}\n";
        assert_eq!(receive_recordings(&fewer[..], to.path()).await.unwrap(), 1);
        assert_eq!(std::fs::read_to_string(to.path().join("pod-1-0.jsonl")).unwrap(), files[0].1);
    }

    #[tokio::test]
    async fn a_sender_writes_nowhere_else() {
        for name in
            ["../pod-1-0.jsonl", "/tmp/pod-1-0.jsonl", ".pod-1-0.jsonl", "pod-1-0.jsonl/..", "authorized_keys", ""]
        {
            let pipe = format!("{}\nabc", serde_json::json!({"file": name, "bytes": 3}));
            let (_, count) = received(pipe.as_bytes()).await;
            assert!(count.unwrap_err().to_string().contains("no name of a recording"), "{name}");
        }
        let (_, count) = received(b"{\"file\":\"pod-1-0.jsonl\",\"bytes\":18446744073709551615}\n").await;
        assert!(count.unwrap_err().to_string().contains("more than"));
        let (_, count) = received(b"error: unrecognized subcommand 'copy'\n").await;
        assert!(count.unwrap_err().to_string().contains("older"));
    }
}

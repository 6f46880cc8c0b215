//! What becomes of record files: closed when they are old, compressed once they are closed.
//!
//! Owns the way from an open file to a compressed one. Touches the records directory, off the way of any command.
//! Invariants: a file is replaced by what was compressed only after that has been read back and is on disk; a file that
//! another process has open is left alone.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::Recordings;
use crate::chain::Hash;
use crate::stored::{self, COMPRESSED, PLAIN, places};

/// zstd's own default: text shrinks to a tenth at several hundred megabytes a second.
const LEVEL: i32 = 3;
/// Bytes that are read at a time.
const PIECE: usize = 128 * 1024;

impl Recordings {
    /// Compresses what is closed, and what others left; what could not be is told and tried again the next time.
    pub(crate) fn compress_closed(&self) -> Result<(), String> {
        let places = places(self.directory()).map_err(|error| format!("{error:#}"))?;
        let mut failed = Vec::new();
        for place in places.into_iter().filter(|place| !place.is_compressed()) {
            let ours = place.stem == self.stem();
            let left = if ours { None } else { self.left(&place) };
            if (ours && self.open_number() == Some(place.number)) || (!ours && left.is_none()) {
                continue;
            }
            let compressed = compress(&place.path);
            // Until it is replaced nobody else takes it up.
            drop(left);
            if let Err(error) = compressed {
                failed.push(format!("{} cannot be compressed: {error}", place.path.display()));
            }
        }
        if failed.is_empty() { Ok(()) } else { Err(failed.join("; ")) }
    }
}

/// Replaces a file by a compressed one.
pub(super) fn compress(path: &Path) -> io::Result<PathBuf> {
    let name = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.strip_suffix(PLAIN));
    let name = name.ok_or(io::ErrorKind::InvalidFilename)?;
    let part = path.with_file_name(format!(".{name}{COMPRESSED}.part"));
    let compressed = path.with_file_name(format!("{name}{COMPRESSED}"));
    let written = write_compressed(path, &part).and_then(|()| {
        std::fs::rename(&part, &compressed)?;
        sync_names(path)?;
        std::fs::remove_file(path)
    });
    if written.is_err() {
        let _may_be_missing = std::fs::remove_file(&part);
    }
    written.map(|()| compressed)
}

fn write_compressed(path: &Path, part: &Path) -> io::Result<()> {
    let source = File::open(path)?;
    let about = source.metadata()?;
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create(true).truncate(true).mode(0o600).open(part)?;
    let mut encoder = zstd::stream::write::Encoder::new(file, LEVEL)?;
    encoder.include_checksum(true)?;
    encoder.set_pledged_src_size(Some(about.len()))?;
    let original = copy(source, &mut encoder)?;
    let file = encoder.finish()?;
    // When it was written is what retention goes by.
    file.set_modified(about.modified()?)?;
    file.sync_all()?;
    let back = copy(stored::decoder(File::open(part)?)?, &mut io::sink())?;
    if back == original { Ok(()) } else { Err(io::Error::other("what was compressed reads back as something else")) }
}

/// Copies all of it; its hash.
fn copy(mut from: impl Read, to: &mut impl Write) -> io::Result<Hash> {
    let (mut hash, mut piece) = (Sha256::new(), vec![0; PIECE]);
    loop {
        let count = match from.read(&mut piece) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            other => other?,
        };
        let read = piece.get(..count).unwrap_or_default();
        if read.is_empty() {
            return Ok(hash.finalize().into());
        }
        hash.update(read);
        to.write_all(read)?;
    }
}

fn sync_names(of: &Path) -> io::Result<()> {
    File::open(of.parent().unwrap_or(Path::new(".")))?.sync_all()
}

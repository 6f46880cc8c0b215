//! The archive of an image as `docker save` writes it: one layer, its configuration, and a manifest.
//! It writes one file, whole or not at all.
//! Names are digests of contents, dates are the epoch: nothing of the time or the machine is in it.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::json;
use sha2::{Digest, Sha256};
use tar::{Builder, EntryType, Header};

use super::Image;
use super::root::Entry;

pub(super) fn write(image: &Image, path: &Path) -> Result<()> {
    let layer = layer(image)?;
    let digest = hex(&layer);
    let user = image.user.to_string();
    let config = serde_json::to_vec(&json!({
        "architecture": architecture(), "os": "linux", "created": "1970-01-01T00:00:00Z",
        "config": {
            "Entrypoint": image.entrypoint, "User": format!("{user}:{user}"), "WorkingDir": "/",
            "Env": ["PATH=/usr/bin:/bin:/", "SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt"],
        },
        "rootfs": { "type": "layers", "diff_ids": [format!("sha256:{digest}")] },
        "history": [{ "created": "1970-01-01T00:00:00Z", "created_by": "sallyport-cluster image" }],
    }))?;
    let config_name = format!("{}.json", hex(&config));
    let layer_name = format!("{digest}/layer.tar");
    let manifest = json!([{ "Config": config_name, "RepoTags": [image.name], "Layers": [layer_name] }]);

    let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(dir)?;
    let mut fresh = tempfile::NamedTempFile::new_in(dir)?;
    let mut archive = Builder::new(&mut fresh);
    append(&mut archive, &config_name, &config)?;
    append(&mut archive, &layer_name, &layer)?;
    append(&mut archive, "manifest.json", &serde_json::to_vec(&manifest)?)?;
    archive.into_inner()?.flush()?;
    fresh.as_file().set_permissions(std::fs::Permissions::from_mode(0o644))?;
    fresh.persist(path).context("cannot put the archive in its place")?;
    Ok(())
}

fn layer(image: &Image) -> Result<Vec<u8>> {
    let mut layer = Builder::new(Vec::new());
    for (path, entry) in image.entries() {
        let relative = path.trim_start_matches('/');
        let mut header = Header::new_gnu();
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        match entry {
            Entry::Directory { mode } => {
                header.set_entry_type(EntryType::Directory);
                header.set_mode(*mode);
                header.set_size(0);
                layer.append_data(&mut header, format!("{relative}/"), std::io::empty())?;
            }
            Entry::File { bytes, mode } => {
                header.set_entry_type(EntryType::Regular);
                header.set_mode(*mode);
                header.set_size(bytes.len().try_into()?);
                layer.append_data(&mut header, relative, &**bytes)?;
            }
            Entry::Link { to } => {
                header.set_entry_type(EntryType::Symlink);
                header.set_mode(0o777);
                header.set_size(0);
                layer.append_link(&mut header, relative, to)?;
            }
        }
    }
    Ok(layer.into_inner()?)
}

fn append(archive: &mut Builder<impl Write>, name: &str, bytes: &[u8]) -> Result<()> {
    let mut header = Header::new_gnu();
    header.set_mtime(0);
    header.set_mode(0o644);
    header.set_size(bytes.len().try_into()?);
    Ok(archive.append_data(&mut header, name, bytes)?)
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The name that image configurations use for what this was compiled for.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

//! Container images without a registry and without a builder: a program, the libraries it names, and little else.
//! It reads the machine's own files and writes an archive as `docker save` does, or a directory for `FROM scratch`.
//! The same inputs give the same bytes: files are sorted, owned by root, and dated to the epoch.

mod archive;
mod root;

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};

use root::{Entry, Root};

/// The name of the image that holds a pod's namespaces.
pub(crate) const PAUSE_IMAGE: &str = "docker.io/sallyport/pause:1";
/// Who a program runs as, unless told otherwise: nobody, as distroless images do.
pub const NON_ROOT: u32 = 65532;
/// Where a distribution keeps the authorities of the public web.
const AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";
/// What the tools image holds: what a test's pod needs to play an agent.
const TOOLS: [&str; 19] = [
    "bash", "sleep", "cat", "ls", "env", "date", "timeout", "seq", "head", "tail", "grep", "id", "rm", "openssl",
    "psql", "pgbench", "cp", "mkdir", "chmod",
];
/// The account that PostgreSQL's own image has.
const POSTGRES_USER: u32 = 999;
/// What a server needs to set itself up and run, and the modules a demo or a test loads.
const SERVER: [&str; 3] = ["initdb", "pg_ctl", "postgres"];
const MODULES: [&str; 5] =
    ["plpgsql.so", "dict_snowball.so", "pg_stat_statements.so", "pgcrypto.so", "libpqwalreceiver.so"];

/// An image, in memory.
#[derive(Debug)]
pub struct Image {
    name: String,
    entrypoint: Vec<String>,
    user: u32,
    root: Root,
}

impl Image {
    /// One program and its libraries, CA certificates, a writable `/tmp`. It is the entry point, as `/<file name>`.
    pub fn of_program(name: &str, program: &Path, user: u32) -> Result<Self> {
        let file = program
            .file_name()
            .and_then(|f| f.to_str())
            .with_context(|| format!("{} has no name", program.display()))?;
        let mut root = base(user)?;
        root.add_program(program, &format!("/{file}"))?;
        Ok(Self { name: name.to_owned(), entrypoint: vec![format!("/{file}")], user, root })
    }

    /// The tools image with the distribution's newest PostgreSQL server in it, where its files know each other.
    pub fn postgres(name: &str) -> Result<Self> {
        let mut image = Self::with_tools(name, POSTGRES_USER)?;
        let server = find_program("postgres")?;
        let home = server.ancestors().nth(2).context("postgres is not in a folder of its own")?.to_owned();
        let version = home.file_name().and_then(|name| name.to_str()).context("no version in its folder's name")?;
        let share = Path::new("/usr/share/postgresql").join(version);
        for program in SERVER {
            let path = home.join("bin").join(program);
            image.root.add_program(&path, &path.display().to_string())?;
        }
        for module in MODULES {
            let path = home.join("lib").join(module);
            image.root.add_program(&path, &path.display().to_string())?;
        }
        add_tree(&mut image.root, &share)?;
        add_tree(&mut image.root, Path::new("/usr/share/zoneinfo/Etc"))?;
        Ok(image)
    }

    /// A shell, PostgreSQL's clients, openssl and a few small tools; the entry point is the shell.
    pub fn tools(name: &str) -> Result<Self> {
        Self::with_tools(name, NON_ROOT)
    }

    fn with_tools(name: &str, user: u32) -> Result<Self> {
        let mut root = base(user)?;
        for tool in TOOLS {
            let program = find_program(tool)?;
            root.add_program(&program, &format!("/usr/bin/{tool}"))?;
        }
        root.add_link("/bin", "usr/bin");
        root.add_link("/usr/bin/sh", "bash");
        if let Ok(config) = std::fs::read("/etc/ssl/openssl.cnf") {
            root.add_file("/usr/lib/ssl/openssl.cnf", config, 0o644);
        }
        Ok(Self { name: name.to_owned(), entrypoint: vec!["/usr/bin/bash".to_owned()], user, root })
    }

    /// The static program that holds a pod's namespaces.
    pub(crate) fn pause(program: &Path) -> Result<Self> {
        let mut root = Root::default();
        root.add_program(program, "/pause")?;
        Ok(Self { name: PAUSE_IMAGE.to_owned(), entrypoint: vec!["/pause".to_owned()], user: NON_ROOT, root })
    }

    /// Writes the archive that `docker load`, `ctr images import` and `kind load image-archive` read.
    pub fn write_archive(&self, path: &Path) -> Result<()> {
        archive::write(self, path).with_context(|| format!("cannot write {}", path.display()))
    }

    /// Writes the root file system as a directory, for a Dockerfile to copy.
    pub fn write_root(&self, dir: &Path) -> Result<()> {
        self.root.write_to(dir).with_context(|| format!("cannot write {}", dir.display()))
    }

    /// The paths in it.
    pub fn paths(&self) -> impl Iterator<Item = &str> {
        self.root.entries().keys().map(String::as_str)
    }

    fn entries(&self) -> &BTreeMap<String, Entry> {
        self.root.entries()
    }
}

/// What every image has: certificates, an account, and a `/tmp` that its user may write.
fn base(user: u32) -> Result<Root> {
    let mut root = Root::default();
    let authorities =
        std::fs::read(AUTHORITIES).with_context(|| format!("cannot read {AUTHORITIES}: install ca-certificates"))?;
    root.add_file("/etc/ssl/certs/ca-certificates.crt", authorities, 0o644);
    root.add_file(
        "/etc/passwd",
        format!("root:x:0:0:root:/:/sbin/nologin\nnonroot:x:{user}:{user}:nonroot:/tmp:/sbin/nologin\n").into_bytes(),
        0o644,
    );
    root.add_file("/etc/group", format!("root:x:0:\nnonroot:x:{user}:\n").into_bytes(), 0o644);
    root.add_file("/etc/nsswitch.conf", b"hosts: files dns\n".to_vec(), 0o644);
    root.add_directory("/tmp", 0o1777);
    Ok(root)
}

/// A folder's files, links followed, under the same paths.
fn add_tree(root: &mut Root, folder: &Path) -> Result<()> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            add_tree(root, &path)?;
        } else {
            root.add_file(&path.display().to_string(), std::fs::read(&path)?, 0o644);
        }
    }
    Ok(())
}

/// A program by name: the real one, where a distribution puts a wrapper before it.
fn find_program(name: &str) -> Result<std::path::PathBuf> {
    let mut places: Vec<std::path::PathBuf> = Vec::new();
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    places.extend(versions.map(|version| version.path().join("bin")));
    places.sort();
    places.reverse();
    places.extend(["/usr/bin", "/bin", "/usr/local/bin"].map(Into::into));
    match places.iter().map(|place| place.join(name)).find(|path| path.is_file()) {
        Some(path) => Ok(path),
        None => bail!("no {name} on this machine: hack/setup.sh installs it"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_program_gives_the_same_archive() {
        let dir = tempfile::tempdir().unwrap();
        let (one, two) = (dir.path().join("1.tar"), dir.path().join("2.tar"));
        for path in [&one, &two] {
            Image::of_program("sallyport/test:dev", Path::new("/bin/cat"), NON_ROOT)
                .unwrap()
                .write_archive(path)
                .unwrap();
        }
        assert_eq!(std::fs::read(one).unwrap(), std::fs::read(two).unwrap());
    }

    #[test]
    fn a_dynamic_program_brings_its_loader_and_libraries_and_certificates() {
        let image = Image::of_program("sallyport/test:dev", Path::new("/bin/cat"), NON_ROOT).unwrap();
        let paths: Vec<&str> = image.paths().collect();
        for part in ["/cat", "libc.so", "ld-linux", "/etc/ssl/certs/ca-certificates.crt", "/tmp"] {
            assert!(paths.iter().any(|path| path.contains(part)), "{part} in {paths:?}");
        }
    }

    #[test]
    fn the_postgres_image_can_set_up_a_server() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        Image::postgres("sallyport-postgres:dev").unwrap().write_root(dir.path()).unwrap();
        std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        std::fs::create_dir(dir.path().join("dev")).unwrap();
        let null = dir.path().join("dev/null");
        let made = std::process::Command::new("mknod").args(["-m", "666"]).arg(&null).args(["c", "1", "3"]).status();
        assert!(made.unwrap().success());
        let script =
            "for bin in /usr/lib/postgresql/*/bin; do :; done; $bin/initdb --no-locale -E UTF8 -D /tmp/pg -A trust";
        let output = std::process::Command::new("chroot")
            .args(["--userspec", "999:999"])
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .arg(dir.path())
            .args(["/bin/sh", "-c", script])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    #[test]
    fn the_staged_root_runs_its_program() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let image = Image::tools("sallyport/tools:dev").unwrap();
        image.write_root(dir.path()).unwrap();
        let script = "psql --version && pgbench --version && openssl version && cat /etc/passwd";
        let output =
            std::process::Command::new("chroot").arg(dir.path()).args(["/bin/sh", "-c", script]).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!(String::from_utf8_lossy(&output.stdout).contains("nonroot"));
    }
}

//! The server's own regression suite, run by stock psql as `pg_regress` runs it, on either way in.
//! It fetches the suite into the cache once for a server version, and touches the two servers that it is given. It
//! judges nothing: what both ways said is for the caller to compare.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use sallyport_harness::Postgres;

use crate::clients::{self, made, succeed};

/// Where the suite lives, with a folder that the server's account may write.
#[derive(Debug)]
pub struct Suite {
    home: PathBuf,
    results: tempfile::TempDir,
}

/// The search path that the proxy says to the server at every login, as an option of the server.
pub const SEARCH_PATH: &str = "-c search_path=\"public\",\\ \"pg_temp\"";

/// What one file said.
#[derive(Debug, PartialEq, Eq)]
pub struct Said {
    /// Standard output and error of psql as one text.
    pub text: String,
}

impl Suite {
    /// The suite of the server that is installed here.
    ///
    /// # Errors
    /// When it cannot be had: a machine without the package registry has to bring it in its cache.
    pub fn get(server: &Postgres) -> Result<Self> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("regress/fetch.sh");
        let output = Command::new(server.program("postgres")).arg("--version").output()?;
        let version = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        let home = made("regress", &version, &[&script], |home| {
            std::fs::create_dir_all(home)?;
            succeed(Command::new(&script).arg(home))
        })
        .context("the server's regression suite cannot be had: it comes from the distribution's source package")?;
        Ok(Self { home, results: results_folder()? })
    }

    /// The names of its files, in an order in which each finds what it needs.
    pub fn schedule(&self) -> Result<Vec<String>> {
        let schedule = std::fs::read_to_string(self.home.join("parallel_schedule"))?;
        let groups = schedule.lines().filter_map(|line| line.strip_prefix("test: "));
        Ok(groups.flat_map(str::split_whitespace).map(str::to_owned).collect())
    }

    /// The text of one file.
    pub fn text(&self, name: &str) -> Result<String> {
        std::fs::read_to_string(self.home.join(format!("sql/{name}.sql"))).with_context(|| format!("no file {name}"))
    }

    /// Whether that is what the suite's authors expect of the file, in any of its variants.
    pub fn expects(&self, name: &str, said: &Said) -> bool {
        let variants = std::iter::once(String::new()).chain((0..10).map(|n| format!("_{n}")));
        variants
            .map(|variant| self.home.join(format!("expected/{name}{variant}.out")))
            .any(|path| std::fs::read_to_string(path).is_ok_and(|expected| expected == said.text))
    }

    /// Makes the database that the suite runs in, with the settings that `pg_regress` gives it.
    pub async fn prepare(&self, server: &Postgres) -> Result<()> {
        server.exec_sql("create database regression template template0").await?;
        let settings = [
            "lc_messages to 'C'",
            "lc_monetary to 'C'",
            "lc_numeric to 'C'",
            "lc_time to 'C'",
            "bytea_output to 'hex'",
            "timezone_abbreviations to 'Default'",
            "intervalstyle to 'postgres_verbose'",
        ];
        for setting in settings {
            server.exec_sql(&format!("alter database regression set {setting}")).await?;
        }
        // It needs two modules of the server beside its own functions.
        for module in ["refint.so", "autoinc.so"] {
            let linked = self.results.path().join(module);
            let own = server.program("postgres").with_file_name("../lib").join(module);
            if !linked.exists() {
                std::os::unix::fs::symlink(own, linked)?;
            }
        }
        // Copies, for the server's account cannot look into a home directory.
        let results = self.results.path();
        succeed(
            Command::new("cp").arg("-r").args([self.home.join("regress.so"), self.home.join("data")]).arg(results),
        )?;
        Ok(())
    }

    /// The text without where its files are, and without what the proxy does not say as the server does of a text that
    /// it cannot parse: psql's line and mark for the place, for any error.
    pub fn plain(&self, said: &Said) -> String {
        let text = said.text.replace(&self.results.path().display().to_string(), "RESULTS");
        let text = text.replace("the statement cannot be parsed: ", "");
        let mut plain = String::with_capacity(text.len());
        let mut marked = false;
        for line in text.lines() {
            let is_place =
                line.strip_prefix("LINE ").is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
            let is_mark = marked && line.trim() == "^";
            marked = is_place;
            if !is_place && !is_mark {
                plain.push_str(line);
                plain.push('\n');
            }
        }
        plain
    }

    /// Runs one file with that connection string to database `regression`, with server options where there are some.
    pub fn run(&self, server: &Postgres, conninfo: &str, options: Option<&str>, name: &str) -> Result<Said> {
        let mut command = Command::new("sh");
        // Both streams into one, in their order.
        command.args(["-c", "exec \"$@\" 2>&1", "psql"]).arg(server.program("psql"));
        command.args(["-X", "-a", "-q", "-v", "HIDE_TABLEAM=on", "-v", "HIDE_TOAST_COMPRESSION=on", conninfo]);
        command
            .env("PGTZ", "PST8PDT")
            .env("PGDATESTYLE", "Postgres, MDY")
            .env("PGAPPNAME", format!("pg_regress/{name}"));
        command.env("PG_ABS_SRCDIR", self.results.path()).env("PG_ABS_BUILDDIR", self.results.path());
        command.env("PG_LIBDIR", self.results.path()).env("PG_DLSUFFIX", ".so");
        command.current_dir(self.results.path());
        if let Some(options) = options {
            command.env("PGOPTIONS", options);
        }
        let output = clients::run(command, &self.text(name)?)?;
        ensure!(output.stderr.is_empty(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(Said { text: String::from_utf8_lossy(&output.stdout).into_owned() })
    }
}

/// A folder that the server's account may write, as some files of the suite make it do.
fn results_folder() -> Result<tempfile::TempDir> {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::TempDir::with_prefix("sallyport-regress-")?;
    let open = |path: &Path| std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o777));
    open(folder.path())?;
    for name in ["results", "testtablespace"] {
        std::fs::create_dir(folder.path().join(name))?;
        open(&folder.path().join(name))?;
    }
    Ok(folder)
}

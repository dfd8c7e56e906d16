//! Other programs: started in the workspace, shown before they run, and judged by their exit status.

use anyhow::{Context, Result, bail};
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Tells the person at the terminal what happens. On stderr, so that stdout is the chore's result.
pub(crate) fn say(text: &str) {
    eprintln!("xtask: {text}");
}

/// The top of the workspace.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(|| PathBuf::from("."), Path::to_path_buf)
}

/// A program that starts at the top of the workspace.
pub(crate) fn program(name: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(name);
    command.current_dir(root());
    command
}

/// The cargo that runs this chore, as if a person had typed it.
///
/// What cargo has told this program of its package is kept from it: build scripts that look at such variables
/// (ring's does) would run again, and all that depends on them be compiled anew, each time that cargo is
/// started from somewhere else.
pub(crate) fn cargo<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Command {
    let mut command = program(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    for (name, _) in std::env::vars_os().filter(|(name, _)| is_of_a_package(name)) {
        command.env_remove(name);
    }
    command.args(args);
    command
}

/// Whether cargo sets that variable to tell a program or a test which package it is of.
fn is_of_a_package(name: &OsStr) -> bool {
    let starts = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_NAME", "CARGO_PRIMARY_PACKAGE"];
    name.to_str().is_some_and(|name| starts.iter().any(|start| name.starts_with(start)))
}

/// Runs to the end; any exit status but 0 is an error.
pub(crate) fn run(command: Command) -> Result<()> {
    say(&show(&command));
    run_quietly(command)
}

/// Runs to the end like [`run`], and shows the command only if it fails.
pub(crate) fn run_quietly(mut command: Command) -> Result<()> {
    let shown = show(&command);
    let status = command.status().with_context(|| format!("cannot start: {shown}"))?;
    if !status.success() {
        bail!("{shown}: {status}");
    }
    Ok(())
}

/// Runs to the end, prints each line of its output as it comes, and hands each to `look`.
pub(crate) fn run_and_read(mut command: Command, mut look: impl FnMut(&str)) -> Result<()> {
    let shown = show(&command);
    say(&shown);
    command.stdout(Stdio::piped());
    let mut child = command.spawn().with_context(|| format!("cannot start: {shown}"))?;
    if let Some(output) = child.stdout.take() {
        for line in BufReader::new(output).split(b'\n') {
            let line = line.with_context(|| format!("cannot read the output of: {shown}"))?;
            let line = String::from_utf8_lossy(&line);
            println!("{line}");
            look(&line);
        }
    }
    let status = child.wait().with_context(|| format!("cannot wait for: {shown}"))?;
    if !status.success() {
        bail!("{shown}: {status}");
    }
    Ok(())
}

/// Whether a program starts and ends well; its output is nobody's business.
pub(crate) fn works(mut command: Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// A command as a person would type it, without the path to the program.
pub(crate) fn show(command: &Command) -> String {
    let mut text = String::new();
    for (name, value) in command.get_envs() {
        if let Some(value) = value {
            let _ = write!(text, "{}={} ", name.display(), quote(value));
        }
    }
    let program = Path::new(command.get_program());
    text.push_str(&program.file_name().unwrap_or(program.as_os_str()).to_string_lossy());
    for arg in command.get_args() {
        let _ = write!(text, " {}", quote(arg));
    }
    text
}

fn quote(text: &OsStr) -> String {
    let text = text.to_string_lossy();
    if text.is_empty() || text.contains(char::is_whitespace) {
        format!("'{text}'")
    } else {
        text.into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_shown_as_it_would_be_typed() {
        let mut command = Command::new("/opt/rust/bin/cargo");
        command.args(["test", "--", "-D warnings"]).env("RUSTFLAGS", "-D warnings");
        assert_eq!(show(&command), "RUSTFLAGS='-D warnings' cargo test -- '-D warnings'");
    }

    #[test]
    fn cargo_does_not_hear_which_package_asks() {
        // Cargo has set this for the test.
        assert!(std::env::var_os("CARGO_PKG_NAME").is_some());
        let cargo = cargo(["--version"]);
        let removed: Vec<_> =
            cargo.get_envs().filter(|(_, value)| value.is_none()).map(|(name, _)| name).collect();
        assert!(removed.contains(&OsStr::new("CARGO_PKG_NAME")), "{removed:?}");
        assert!(removed.contains(&OsStr::new("CARGO_MANIFEST_DIR")), "{removed:?}");
        assert!(
            !is_of_a_package(OsStr::new("CARGO_HOME")) && !is_of_a_package(OsStr::new("CARGO_TARGET_DIR"))
        );
    }

    #[test]
    fn a_failure_names_the_command() {
        let error = run(program("false")).unwrap_err();
        assert!(error.to_string().starts_with("false: exit status"), "{error}");
        let error = run(program("no-such-program")).unwrap_err();
        assert_eq!(error.to_string(), "cannot start: no-such-program");
    }

    #[test]
    fn lines_are_read_as_they_come() {
        let mut lines = Vec::new();
        let mut echo = program("printf");
        echo.arg("one\\ntwo\\n");
        run_and_read(echo, |line| lines.push(line.to_owned())).unwrap();
        assert_eq!(lines, ["one", "two"]);
    }
}

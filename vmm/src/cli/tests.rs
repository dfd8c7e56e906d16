//! The words. (Runs are in `tests/run.rs`.)

use super::*;
use clap::CommandFactory as _;
use std::collections::HashSet;

fn error_of(words: &[&str]) -> String {
    let words = ["colo-vm", "run"].iter().chain(words);
    Cli::try_parse_from(words).unwrap_err().to_string()
}

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn the_words_of_the_manual_are_understood() {
    let words = "colo-vm run --kernel K --initrd I --cmdline S --memory 512M --cpus 2 \
        --disk path=disk.qcow2,format=qcow2,readonly,serial=S1 --net tap=vif1.0,mac=02:00:00:00:00:01,queues=2 \
        --console pty --qmp unix:/run/q --rng false --on-reset exit --seccomp log --user 1:2 --name web \
        --metrics localhost:9091 --restore S";
    Cli::try_parse_from(words.split_whitespace()).unwrap();
}

#[test]
fn mistakes_are_met_with_the_right_form() {
    for (words, says) in [
        (&["--memroy", "1G"][..], "--memory"),
        (&["--memory", "1X"], "write a number with M, G or nothing (MiB), such as 512M or 2G"),
        (&["--disk", "a.qcow2"], "write --disk path=FILE"),
        (&["--net", "tab=x"], "did you mean tap?"),
        (&["--console", "stdoi"], "did you mean stdio?"),
        (&["--cpus", "0"], "from 1 to 16"),
        (&["--qmp", "tcp:1"], "write unix:PATH"),
    ] {
        let error = error_of(words);
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn the_help_has_examples_and_every_exit_code() {
    let mut command = Cli::command();
    for order in ["primary", "secondary", "save", "status", "checkpoint", "takeover"] {
        let help = command.find_subcommand_mut(order).unwrap().render_long_help().to_string();
        assert!(help.contains("Examples:") && help.contains(&format!("colo-vm {order} ")), "{help}");
    }
    let run = command.find_subcommand_mut("run").unwrap();
    let help = run.render_long_help().to_string();
    assert!(help.contains("Examples:"), "{help}");
    let codes = help.split("Exit codes:").nth(1).unwrap();
    for exit in Exit::ALL {
        assert!(codes.contains(&format!("{} ", exit.code())), "{exit:?}");
    }
    let different: HashSet<u8> = Exit::ALL.into_iter().map(Exit::code).collect();
    assert_eq!(different.len(), Exit::ALL.len());
}

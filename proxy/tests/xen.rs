//! `colo-proxy-setup` as Xen's toolstack runs it: a verb, and the NIC in the environment.
#![allow(clippy::unwrap_used, reason = "a fixture that fails is a test that fails")]

use std::process::{Command, Output};

const VARIABLES: [&str; 5] = ["vifname", "forwarddev", "mode", "index", "bridge"];
const VALUES: [&str; 5] = ["vif1.0", "eth1", "secondary", "3", "xenbr0"];

/// Runs it with these words and variables and nothing else of ours.
fn run(words: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_colo-proxy-setup"));
    for name in VARIABLES {
        command.env_remove(name);
    }
    command.args(words).envs(variables.iter().copied()).output().unwrap()
}

/// All five, with some other values.
fn with<'a>(others: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    VARIABLES.into_iter().zip(VALUES).chain(others.iter().copied()).collect()
}

/// It failed, and said this and nothing else.
fn refused(output: &Output, text: &str) {
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(String::from_utf8_lossy(&output.stderr), format!("{text}\n"));
    assert!(output.stdout.is_empty());
}

#[test]
fn two_verbs_and_no_other() {
    for words in [&["restart"][..], &[], &["setup", "now"], &["Setup"], &["--help"], &["setup", "comparator"]]
    {
        // Even with nothing else that could be right.
        refused(&run(words, &[]), &format!("Invalid command: {}", words.join(" ")));
        refused(&run(words, &with(&[])), &format!("Invalid command: {}", words.join(" ")));
    }
}

#[test]
fn each_of_the_five_is_missed_by_its_name_the_first_first() {
    for verb in ["setup", "teardown"] {
        for (at, name) in VARIABLES.into_iter().enumerate() {
            let all_but = |value: Option<&'static str>| {
                let given = VARIABLES.into_iter().zip(VALUES).enumerate();
                let given = given.filter(|&(other, _)| other != at).map(|(_, pair)| pair);
                given.chain(value.map(|value| (name, value))).collect::<Vec<_>>()
            };
            let text = format!("{name}: parameter null or not set");
            refused(&run(&[verb], &all_but(None)), &text);
            refused(&run(&[verb], &all_but(Some(""))), &text);
            // With those before it and none after it.
            let before: Vec<_> = VARIABLES.into_iter().zip(VALUES).take(at).collect();
            refused(&run(&[verb], &before), &text);
        }
    }
}

#[test]
fn a_mode_is_one_of_two_and_an_index_a_number_to_100() {
    for mode in ["both", "Primary", "primary "] {
        refused(&run(&["setup"], &with(&[("mode", mode), ("index", "x")])), &format!("Invalid mode: {mode}"));
    }
    for index in ["-1", "101", "abc", "1e1", "0x10", " 1", "+1", "99999999999999999999"] {
        refused(&run(&["setup"], &with(&[("index", index)])), "index overflow");
    }
}

#[test]
fn a_value_that_cannot_be_is_refused_by_its_name() {
    for (name, value, why) in [
        ("vifname", "a/b", "1 to 15 characters"),
        ("forwarddev", "sixteen-letters-", "1 to 15 characters"),
        ("bridge", "..", "1 to 15 characters"),
        ("COLO_NOTIFY", "/run/x", "unix:PATH"),
        ("COLO_PROXY_TIMEOUT", "41", "from 1 to 40"),
        ("COLO_PROXY_TIMEOUT", "0", "from 1 to 40"),
    ] {
        let output = run(&["setup"], &with(&[(name, value)]));
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1));
        assert!(text.starts_with(&format!("{name}: ")) && text.contains(why), "{text}");
    }
    refused(
        &run(&["setup"], &with(&[("forwarddev", "vif1.0")])),
        "forward vif1.0 is given as a vif too; vif is the host end of the guest's NIC, and forward the device \
         to the other host",
    );
}

/// Runs a script with the devices of [`VALUES`] in a network and a mount namespace of its own, and
/// gives what it says. `$SETUP` is the program, and all variables are set.
fn script(text: &str) -> String {
    let directory = tempfile::tempdir().unwrap();
    let place = |name: &str| directory.path().join(name).display().to_string();
    let devices = "set -eu
        exec 2>&1
        trap '$SETUP teardown > /dev/null || true' EXIT
        ip link add vif1.0 type veth peer name guest
        ip link add eth1 type veth peer name other
        ip link add xenbr0 type bridge
        ip link set vif1.0 master xenbr0
        for device in vif1.0 guest eth1 other xenbr0; do ip link set $device up; done
        netns=$(stat -L -c %i /proc/self/ns/net)
        ";
    let output = Command::new("unshare")
        .args(["--net", "--mount", "sh", "-c", &format!("{devices}{text}")])
        .envs(with(&[]))
        .env("SETUP", env!("CARGO_BIN_EXE_colo-proxy-setup"))
        .env("COLO_PROXY_RUN_DIR", place("run"))
        .env("COLO_PROXY_BPFFS", place("bpf"))
        .env("COLO_LOG", "warn")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}");
    said
}

/// The journals and pins that are there.
const TRACES: &str = "find $COLO_PROXY_RUN_DIR -name '*.json'; \
     test ! -d $COLO_PROXY_BPFFS || find $COLO_PROXY_BPFFS -type f ! -name '*.debug'; ";

#[test]
fn a_secondary_is_set_up_and_torn_down_and_nothing_stays() {
    let said = script(&format!(
        "$SETUP setup; test -n \"$({TRACES})\"; $SETUP setup && exit 9; $SETUP teardown; {TRACES} $SETUP teardown"
    ));
    let what = "for vif1.0. vifname: vif1.0, index: 3, forwarddev: eth1, bridge: xenbr0.";
    let lines: Vec<&str> = said.lines().collect();
    let [setup, busy, teardown, again] = lines.as_slice() else { panic!("{said}") };
    assert_eq!(*setup, format!("Successful colo-proxy-setup setup {what}"));
    assert!(busy.starts_with("device busy: vif1.0"), "{busy}");
    let torn_down = format!("Successful colo-proxy-setup teardown {what}");
    assert_eq!([*teardown, *again], [torn_down.as_str(); 2]);
}

#[test]
fn a_primary_leaves_a_comparator_that_goes_with_it() {
    let said = script(&format!(
        "export mode=primary index=0; $SETUP setup
        pid=$(tr -d ' \\n' < $COLO_PROXY_RUN_DIR/$netns/nic-vif1.0.json | grep -o '\"pid\":[0-9]*' | cut -d: -f2)
        kill -0 $pid
        $SETUP teardown
        kill -0 $pid 2>/dev/null && ! grep -q 'State:.Z' /proc/$pid/status && exit 9
        {TRACES}"
    ));
    let what = "for vif1.0. vifname: vif1.0, index: 0, forwarddev: eth1.\n";
    assert_eq!(
        said,
        format!("Successful colo-proxy-setup setup {what}Successful colo-proxy-setup teardown {what}")
    );
}

#[test]
fn what_cannot_be_set_up_says_why_and_leaves_nothing() {
    for mode in ["primary", "secondary"] {
        let said = script(&format!(
            "export mode={mode} index=100; forwarddev=eth9 $SETUP setup && exit 9; bridge=br9 $SETUP setup && exit 9
            {TRACES}"
        ));
        assert!(said.contains("eth9") && said.contains("br9") && !said.contains("Successful"), "{said}");
        assert!(!said.contains(".json") && !said.contains("overflow"), "{said}");
    }
}

#[test]
fn what_hangs_is_ended_and_undone_in_time() {
    // Somebody has the lock and does not let go.
    let said = script(&format!(
        "export COLO_PROXY_TIMEOUT=2; mkdir -p $COLO_PROXY_RUN_DIR/$netns
        exec 9> $COLO_PROXY_RUN_DIR/$netns/lock; flock 9
        $SETUP setup && exit 9; {TRACES}"
    ));
    assert!(said.contains("colo-proxy-setup setup for vif1.0 was given up after"), "{said}");
    assert!(said.contains("what it had done is undone") && !said.contains(".json"), "{said}");
}

//! What can be said of a pair, and what contradicts itself.

use super::*;
use clap::Parser;

#[derive(Debug, Parser)]
struct Words {
    #[command(flatten)]
    draft: ColoDraft,
}

/// What these options say.
fn said(words: &str) -> ColoDraft {
    Words::try_parse_from(std::iter::once("x").chain(words.split_whitespace())).unwrap().draft
}

fn primary(words: &str) -> Result<Colo, ColoError> {
    ColoDraft { peer: Some("web2:9000".parse().unwrap()), ..said(words) }.primary(&Name::unnamed())
}

fn secondary(words: &str) -> Result<Colo, ColoError> {
    ColoDraft { listen: Some("[::]:9000".parse().unwrap()), ..said(words) }.secondary(&Name::unnamed())
}

#[test]
fn what_is_not_said_has_a_default_that_follows_the_mode_and_the_side() {
    let colo = primary("").unwrap();
    assert_eq!(
        colo.side,
        Side::Primary { peer: "web2:9000".parse().unwrap(), sync: DiskSync::Full, force: false }
    );
    assert_eq!((colo.mode, colo.delay.get(), colo.vm_id.as_str()), (Mode::Colo, 20_000, "guest"));
    assert_eq!(
        (colo.heartbeat.get(), colo.peer_timeout.get(), colo.phase_timeout.get()),
        (100, 1000, 10_000)
    );
    assert_eq!((colo.packing, colo.background, colo.dirty), (Packing::Zeros, Background::Auto, Dirty::Auto));
    assert_eq!(colo.role(), status::Role::Primary);
    let colo = secondary("--mode periodic").unwrap();
    assert_eq!((colo.mode, colo.delay.get()), (Mode::Periodic, 100));
    assert_eq!(
        colo.side,
        Side::Secondary { listen: "[::]:9000".parse().unwrap(), takes_over: false, spill: None }
    );
    assert_eq!(colo.role(), status::Role::Secondary);
}

#[test]
fn every_word_is_understood() {
    let colo = secondary(
        "--mode periodic --checkpoint-delay 50 --vm-id web-1 --heartbeat-interval 20 --peer-timeout 300 \
         --phase-timeout 2000 --packing delta --background off --dirty ring --on-peer-loss take-over --spill /var/tmp \
         --tls-cert c --tls-key k --tls-ca a",
    )
    .unwrap();
    assert_eq!((colo.delay.get(), colo.vm_id.as_str(), colo.heartbeat.get()), (50, "web-1", 20));
    assert_eq!((colo.peer_timeout.get(), colo.phase_timeout.get()), (300, 2000));
    assert_eq!((colo.packing, colo.background, colo.dirty), (Packing::Delta, Background::Off, Dirty::Ring));
    assert!(
        matches!(&colo.side, Side::Secondary { takes_over: true, spill: Some(at), .. } if at.as_os_str() == "/var/tmp")
    );
    let trust = Trust::Authority("a".into());
    assert_eq!(colo.tls, Some(Tls { cert: "c".into(), key: "k".into(), trust }));
    let pinned = primary("--tls-cert c --tls-key k --tls-peer p --on-peer-loss go-on").unwrap();
    assert_eq!(pinned.tls.unwrap().trust, Trust::Peer("p".into()));
}

#[test]
fn contradictions_are_found() {
    let name = Name::unnamed();
    // The command line has no empty file names; a file can.
    let nameless = ColoDraft {
        peer: Some("web2:9000".parse().unwrap()),
        tls_cert: Some("".into()),
        ..ColoDraft::default()
    };
    for (refused, says) in [
        (ColoDraft::default().primary(&name), "write --peer HOST:PORT"),
        (ColoDraft::default().secondary(&name), "write --listen ADDR:PORT"),
        (
            primary("--on-peer-loss take-over"),
            "a primary does not take-over when its peer is lost; write --on-peer-loss go-on",
        ),
        (
            primary("--on-peer-loss wait"),
            "a primary does not wait when its peer is lost; write --on-peer-loss go-on",
        ),
        (secondary("--on-peer-loss go-on"), "write --on-peer-loss wait or take-over"),
        (
            primary("--peer-timeout 150"),
            "less than two --heartbeat-interval (100 ms each): one late heartbeat would end the pair; make it 200 ms or more",
        ),
        (primary("--tls-cert c --tls-key k"), "TLS needs to know whom to believe; write --tls-cert FILE"),
        (primary("--tls-ca a"), "TLS needs this side's certificate"),
        (primary("--tls-cert c --tls-peer p"), "TLS needs the certificate's private key"),
        (primary("--tls-cert c --tls-key k --tls-ca a --tls-peer p"), "write one of them"),
        (nameless.primary(&name), "--tls-cert has an empty path"),
    ] {
        let error = refused.unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn who_is_not_alone_on_the_network_is_warned() {
    let warned = |colo: Result<Colo, ColoError>| colo.unwrap().warnings().join("\n");
    assert!(warned(primary("")).contains("checkpoints pass web2:9000 without TLS"));
    assert!(warned(secondary("")).contains("checkpoints pass [::]:9000 without TLS"));
    assert_eq!(warned(primary("--tls-cert c --tls-key k --tls-peer p")), "");
    let near = ColoDraft { peer: Some("localhost:9000".parse().unwrap()), ..ColoDraft::default() };
    assert_eq!(warned(near.primary(&Name::unnamed())), "");
    let bold = warned(secondary("--on-peer-loss take-over --tls-cert c --tls-key k --tls-peer p"));
    assert!(bold.contains("a lost link alone makes this secondary take over"), "{bold}");
}

#[test]
fn the_later_word_counts() {
    let colo = said("--packing lz4").over(said("--packing none --dirty log")).primary(&Name::unnamed());
    assert_eq!(colo, Err(ColoError::NoPeer));
    let both = said("--packing lz4").over(said("--packing none --dirty log"));
    assert_eq!((both.packing, both.dirty), (Some(Packing::Lz4), Some(Dirty::Log)));
}

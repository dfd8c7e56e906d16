//! What is said of files: good ones, bad ones, and such as are made to keep us busy.

use super::super::description::Device;
use super::super::tests::{devices, small};
use super::*;
use crate::state::Field;
use serde_json::json;
use std::io::Cursor;

#[test]
fn a_file_is_shown_field_by_field() {
    let file = small();
    let report = inspect(Cursor::new(&file)).unwrap();
    let value = serde_json::to_value(&report).unwrap();
    assert_eq!(value["machine"], "colo-vm");
    assert_eq!(value["bytes"], file.len());
    assert_eq!(
        value["ram"]["blocks"][0],
        json!({"name": "block0", "size": 16384, "pages": 2, "zero_pages": 2})
    );
    assert_eq!(value["devices"][0]["fields"]["deadline"], -5);
    assert_eq!(value["devices"][1]["fields"]["registers.len"], 2);
    let text = report.to_string();
    assert!(text.contains("timer (instance 1, version 2)"), "{text}");
    assert!(text.contains("  armed = true\n  deadline = 7\n"), "{text}");
    // The sections follow one another from the header to the last byte, but for the one byte of the end.
    let sum: u64 = report.sections.iter().map(|section| section.bytes).sum();
    assert_eq!(sum + 1, report.bytes);
}

#[test]
fn a_bad_file_is_said_to_be_bad_where_it_is() {
    let file = small();
    for len in 0..file.len() {
        let error = inspect(Cursor::new(&file[..len])).unwrap_err();
        assert!(error.offset <= len as u64, "{error}");
    }
}

#[test]
fn a_description_cannot_make_values_without_bytes() {
    let nothing = Field { size: 0, array_len: Some(u64::MAX), ..Field::buffer("x".into(), 0) };
    let content = Struct { fields: vec![nothing], ..Struct::default() };
    assert!(fields::read(&content, &[], &mut 100).unwrap_err().contains("without bytes"));
    let many = Field { array_len: Some(1000), ..Field::buffer("x".into(), 1) };
    let content = Struct { fields: vec![many], ..Struct::default() };
    assert_eq!(fields::size(&content), 1000);
    assert!(fields::read(&content, &[0; 1000], &mut 100).unwrap_err().contains("too many"));
    assert!(fields::read(&content, &[0; 999], &mut 10_000).unwrap_err().contains("fewer are left"));
    assert!(fields::read(&content, &[0; 1001], &mut 10_000).unwrap_err().contains("last 1 bytes"));
}

#[test]
fn our_own_description_adds_up() {
    for (device, encoded) in Description::of(&devices()).devices.iter().zip(devices()) {
        let Device { content, .. } = device;
        assert_eq!(fields::size(content), 4 + encoded.bytes.len() as u64);
    }
}

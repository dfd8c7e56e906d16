//! A report for people.

use super::fields::{Value, hex};
use super::{BlockReport, DeviceReport, Report, SectionReport};
use std::fmt;

/// How many bytes of a buffer, and elements of a list, are shown.
const SHOWN: usize = 32;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "machine {}, {} bytes", self.machine, self.bytes)?;
        writeln!(f, "\n{:>14} {:>14}  section", "offset", "bytes")?;
        for SectionReport { name, offset, bytes } in &self.sections {
            writeln!(f, "{offset:>14} {bytes:>14}  {name}")?;
        }
        writeln!(f, "\nmemory: {} pages and {} of zeros", self.ram.pages, self.ram.zero_pages)?;
        for BlockReport { block, pages, zero_pages } in &self.ram.blocks {
            writeln!(f, "  {} of {} bytes: {pages} pages and {zero_pages} of zeros", block.name, block.size)?;
        }
        for device in &self.devices {
            let DeviceReport { name, instance, version, bytes, fields, .. } = device;
            writeln!(f, "\n{name} (instance {instance}, version {version}): {bytes} bytes")?;
            if let Value::Fields(fields) = fields {
                write_fields(f, fields, 1)?;
            }
        }
        let state: u64 = self.devices.iter().map(|device| device.bytes).sum();
        writeln!(f, "\ntotal: {} devices with {state} bytes of state", self.devices.len())
    }
}

fn write_fields(f: &mut fmt::Formatter<'_>, fields: &[(String, Value)], depth: usize) -> fmt::Result {
    for (name, value) in fields {
        write_named(f, name, value, depth)?;
    }
    Ok(())
}

fn write_named(f: &mut fmt::Formatter<'_>, name: &str, value: &Value, depth: usize) -> fmt::Result {
    let indent = depth * 2;
    match value {
        Value::Fields(fields) => {
            writeln!(f, "{:indent$}{name}", "")?;
            write_fields(f, fields, depth + 1)
        }
        Value::List(list) if list.iter().any(|value| matches!(value, Value::Fields(_) | Value::List(_))) => {
            for (at, value) in list.iter().enumerate() {
                write_named(f, &format!("{name}[{at}]"), value, depth)?;
            }
            Ok(())
        }
        Value::List(list) => {
            write!(f, "{:indent$}{name} =", "")?;
            for value in list.iter().take(SHOWN) {
                write!(f, " {}", Plain(value))?;
            }
            if list.len() > SHOWN {
                write!(f, " … ({} elements)", list.len())?;
            }
            writeln!(f)
        }
        plain => writeln!(f, "{:indent$}{name} = {}", "", Plain(plain)),
    }
}

/// A value of one line.
struct Plain<'a>(&'a Value);

impl fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Value::Bool(value) => write!(f, "{value}"),
            Value::Number(value, size) => write!(f, "{value:#0width$x}", width = *size as usize * 2 + 2),
            Value::Signed(value) => write!(f, "{value}"),
            Value::Variant(name) => f.write_str(name),
            Value::Bytes(bytes) if bytes.len() > SHOWN => {
                write!(f, "{}… ({} bytes)", hex(&bytes[..SHOWN]), bytes.len())
            }
            // A name is one, as far as can be seen.
            Value::Bytes(bytes)
                if !bytes.is_empty() && bytes.iter().all(|byte| (b' '..0x7f).contains(byte)) =>
            {
                write!(f, "{:?}", String::from_utf8_lossy(bytes))
            }
            Value::Bytes(bytes) => f.write_str(&hex(bytes)),
            Value::Fields(_) | Value::List(_) => Ok(()),
        }
    }
}

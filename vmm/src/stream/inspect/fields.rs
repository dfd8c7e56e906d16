//! A device's bytes as values, by their description.

use super::super::format::SUBSECTION;
use super::super::source::{Slice, Source as _, array};
use crate::state::{Field, Struct};
use serde::ser::{Serialize, SerializeMap, Serializer};

/// The most values that are shown: a description of a few bytes could ask for any number.
pub(super) const BUDGET: usize = 4 << 20;

/// What a field says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Yes or no.
    Bool(bool),
    /// A number of so many bytes.
    Number(u64, u64),
    /// One with a sign.
    Signed(i64),
    /// An enum's value.
    Variant(String),
    /// Bytes that mean something, or not.
    Bytes(Vec<u8>),
    /// Fields, in their order.
    Fields(Vec<(String, Value)>),
    /// Elements.
    List(Vec<Value>),
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Number(value, _) => serializer.serialize_u64(*value),
            Self::Signed(value) => serializer.serialize_i64(*value),
            Self::Variant(name) => serializer.serialize_str(name),
            Self::Bytes(bytes) => serializer.serialize_str(&hex(bytes)),
            Self::List(values) => serializer.collect_seq(values),
            Self::Fields(fields) => {
                let mut map = serializer.serialize_map(Some(fields.len()))?;
                for (name, value) in fields {
                    map.serialize_entry(name, value)?;
                }
                map.end()
            }
        }
    }
}

/// Bytes as people write them.
pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing into a String does not fail.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// How many bytes it describes.
pub(super) fn size(content: &Struct) -> u64 {
    let fields = content.fields.iter().map(|field| {
        let one = field.inner.as_ref().map_or(field.size, size);
        one.saturating_mul(field.array_len.unwrap_or(1))
    });
    let heads =
        content.subsections.iter().map(|sub| (6 + sub.vmsd_name.len() as u64).saturating_add(size(sub)));
    fields.chain(heads).fold(0, u64::saturating_add)
}

/// All of these bytes as values.
pub(super) fn read(content: &Struct, bytes: &[u8], budget: &mut usize) -> Result<Value, String> {
    let mut source = Slice::new(bytes);
    let value = Walk { budget }.fields(content, &mut source)?;
    match source.rest().len() {
        0 => Ok(value),
        left => Err(format!("leaves the last {left} bytes of the state undescribed")),
    }
}

struct Walk<'a> {
    budget: &'a mut usize,
}

impl Walk<'_> {
    fn fields(&mut self, content: &Struct, source: &mut Slice<'_>) -> Result<Value, String> {
        let mut values: Vec<(String, Value)> = Vec::new();
        for field in &content.fields {
            if let Some(len) = field.array_len {
                let mut list = Vec::new();
                for _ in 0..len {
                    list.push(self.element(field, source)?);
                }
                values.push((field.name.clone(), Value::List(list)));
            } else if field.index.is_some() {
                let element = self.one(field, source)?;
                match values.last_mut() {
                    Some((name, Value::List(list))) if *name == field.name && field.index != Some(0) => {
                        list.push(element);
                    }
                    _ => values.push((field.name.clone(), Value::List(vec![element]))),
                }
            } else {
                values.push((field.name.clone(), self.one(field, source)?));
            }
        }
        for sub in &content.subsections {
            let short = |_| format!("has a part {}, at byte {} it ends", sub.vmsd_name, source.offset());
            let at = *source;
            let mut head = at;
            let [kind, len] = array(&mut head).map_err(short)?;
            let name = head.slice(usize::from(len)).map_err(short)?;
            if kind != SUBSECTION || name != sub.vmsd_name.as_bytes() {
                return Err(format!("has a part {} that is not at byte {}", sub.vmsd_name, at.offset()));
            }
            array::<4>(&mut head).map_err(short)?;
            *source = head;
            values.push((sub.vmsd_name.clone(), self.fields(sub, source)?));
        }
        Ok(Value::Fields(values))
    }

    /// One of an array: it takes a byte at least, or their number would be without a bound.
    fn element(&mut self, field: &Field, source: &mut Slice<'_>) -> Result<Value, String> {
        let begin = source.offset();
        let value = self.one(field, source)?;
        if source.offset() == begin {
            return Err(format!("has an array {} of elements without bytes", field.name));
        }
        Ok(value)
    }

    fn one(&mut self, field: &Field, source: &mut Slice<'_>) -> Result<Value, String> {
        *self.budget = self.budget.checked_sub(1).ok_or("asks for too many values")?;
        if let Some(inner) = &field.inner {
            return self.fields(inner, source);
        }
        let at = source.offset();
        let len = usize::try_from(field.size).unwrap_or(usize::MAX);
        let bytes = source.slice(len);
        let bytes = bytes.map_err(|_| {
            format!("has a field {} of {len} bytes at byte {at}, where fewer are left", field.name)
        })?;
        let number = (1..=8).contains(&bytes.len());
        let unsigned = || bytes.iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
        Ok(match field.kind.split(' ').next().unwrap_or_default() {
            "bool" if bytes.len() == 1 => Value::Bool(unsigned() != 0),
            "uint8" | "uint16" | "uint32" | "uint64" if number => match &field.variant {
                Some(name) => Value::Variant(name.clone()),
                None => Value::Number(unsigned(), field.size),
            },
            "int8" | "int16" | "int32" | "int64" if number => {
                let unused = 64 - 8 * bytes.len() as u32;
                Value::Signed((unsigned() << unused) as i64 >> unused)
            }
            _ => Value::Bytes(bytes.to_vec()),
        })
    }
}

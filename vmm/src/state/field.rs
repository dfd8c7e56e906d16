//! The description of a field, in the words of QEMU's VM description.

use serde::{Deserialize, Serialize};

/// A field, or as many equal ones as `array_len` says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Field {
    /// Its name.
    pub name: String,
    /// What it is: `uint32`, `buffer`, `struct`, …
    #[serde(rename = "type")]
    pub kind: String,
    /// How many bytes one element has.
    #[serde(default)]
    pub size: u64,
    /// How many equal elements there are, if it is an array.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub array_len: Option<u64>,
    /// Which element of an array it is, where they are described one by one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<u64>,
    /// What a struct has in it.
    #[serde(default, rename = "struct", skip_serializing_if = "Option::is_none")]
    pub inner: Option<Struct>,
    /// The name of an enum's value. QEMU's descriptions have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

/// What a struct has in it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Struct {
    /// The type's name.
    #[serde(default)]
    pub vmsd_name: String,
    /// Its version.
    #[serde(default)]
    pub version: u32,
    /// Its fields.
    #[serde(default)]
    pub fields: Vec<Field>,
    /// What only QEMU has: parts that are there or not, each with a header of its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub subsections: Vec<Struct>,
}

impl Field {
    fn new(name: String, kind: &str, size: u64) -> Self {
        Self { name, kind: kind.to_owned(), size, array_len: None, index: None, inner: None, variant: None }
    }

    /// A number that counts or tells, of our own making.
    pub(crate) fn count(name: String) -> Self {
        Self::new(name, "uint32", 4)
    }

    /// Bytes.
    pub(crate) fn buffer(name: String, size: u64) -> Self {
        Self::new(name, "buffer", size)
    }

    fn total(&self) -> u64 {
        self.size.saturating_mul(self.array_len.unwrap_or(1))
    }
}

/// What a value turned out to be, before it has a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// Nothing that takes a byte, or nobody wants to know.
    Nothing,
    Scalar(&'static str, u64),
    /// Bytes: arrays of them, and texts.
    Buffer(u64),
    Struct(&'static str, Vec<Field>),
    /// Equal elements.
    Array(Box<Shape>, u64),
    /// Elements that differ.
    Elements(Vec<Shape>),
    /// After a count.
    Counted(Box<Shape>),
    /// After a yes or no.
    Maybe(Option<Box<Shape>>),
    /// After a variant's number.
    Variant(&'static str, Box<Shape>),
}

pub(super) const BYTE: Shape = Shape::Scalar("uint8", 1);

impl Shape {
    /// Its fields under this name.
    pub(super) fn fields(self, name: &str, out: &mut Vec<Field>) {
        let dotted = |last: &str| format!("{name}.{last}");
        match self {
            Self::Nothing => {}
            Self::Counted(elements) => {
                out.push(Field::count(dotted("len")));
                elements.fields(name, out);
            }
            Self::Maybe(value) => {
                out.push(Field::new(dotted("present"), "bool", 1));
                if let Some(value) = value {
                    value.fields(name, out);
                }
            }
            Self::Variant(variant, content) => {
                out.push(Field {
                    variant: Some(variant.to_owned()),
                    ..Field::new(name.to_owned(), "uint8", 1)
                });
                content.fields(&dotted(variant), out);
            }
            Self::Array(element, len) => {
                let field = element.element(name);
                out.push(Field { array_len: Some(len), ..field });
            }
            Self::Elements(elements) => {
                for (index, element) in (0..).zip(elements) {
                    let field = element.element(name);
                    out.push(Field { index: Some(index), ..field });
                }
            }
            single => out.push(single.element(name)),
        }
    }

    /// Itself as one field; what has several becomes a struct.
    fn element(self, name: &str) -> Field {
        let name = name.to_owned();
        let (type_name, fields) = match self {
            Self::Scalar(kind, size) => return Field::new(name, kind, size),
            Self::Buffer(size) => return Field::buffer(name, size),
            Self::Struct(type_name, fields) => (type_name, fields),
            other => {
                let mut fields = Vec::new();
                other.fields("value", &mut fields);
                ("value", fields)
            }
        };
        let size = fields.iter().map(Field::total).fold(0, u64::saturating_add);
        let vmsd_name = type_name.to_owned();
        let inner = Struct { vmsd_name, version: 1, fields, subsections: Vec::new() };
        Field { inner: Some(inner), ..Field::new(name, "struct", size) }
    }
}

/// Collects elements: one shape for all, as long as they are equal.
#[derive(Debug, Default)]
pub(super) struct Elements {
    first: Option<Shape>,
    equal: u64,
    different: Vec<Shape>,
}

impl Elements {
    pub(super) fn push(&mut self, shape: Shape) {
        let Some(first) = &self.first else {
            (self.first, self.equal) = (Some(shape), 1);
            return;
        };
        if self.different.is_empty() && *first == shape {
            self.equal += 1;
            return;
        }
        if self.different.is_empty() {
            self.different = vec![first.clone(); usize::try_from(self.equal).unwrap_or(usize::MAX)];
        }
        self.different.push(shape);
    }

    pub(super) fn shape(self) -> Shape {
        match self.first {
            _ if !self.different.is_empty() => Shape::Elements(self.different),
            None | Some(Shape::Nothing) => Shape::Nothing,
            Some(BYTE) => Shape::Buffer(self.equal),
            Some(first) => Shape::Array(Box::new(first), self.equal),
        }
    }
}

//! A state to bytes, and in the same step to their description.

use super::field::{Elements, Field, Shape};
use super::{DEPTH, EncodeError};
use serde::ser::{self, Serialize};

/// Both of a state; the description is empty if it is not asked for.
pub(super) fn serialize<T: Serialize>(
    state: &T,
    describe: bool,
) -> Result<(Vec<u8>, Vec<Field>), EncodeError> {
    let mut writer = Writer { bytes: Vec::new(), describe, depth: 0 };
    let fields = match state.serialize(&mut writer)? {
        Shape::Struct(_, fields) => fields,
        other => {
            let mut fields = Vec::new();
            other.fields("value", &mut fields);
            fields
        }
    };
    Ok((writer.bytes, fields))
}

struct Writer {
    bytes: Vec<u8>,
    describe: bool,
    depth: usize,
}

impl Writer {
    /// A value that is in another one.
    fn inner<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<Shape, EncodeError> {
        if self.depth == DEPTH {
            return Err(EncodeError::new("nested too deep"));
        }
        self.depth += 1;
        let shape = value.serialize(&mut *self)?;
        self.depth -= 1;
        Ok(shape)
    }

    fn put(&mut self, bytes: &[u8], kind: &'static str) -> Shape {
        self.bytes.extend_from_slice(bytes);
        Shape::Scalar(kind, bytes.len() as u64)
    }

    fn counted(&mut self, bytes: &[u8]) -> Result<Shape, EncodeError> {
        let len = u32::try_from(bytes.len()).map_err(|_| too_many(bytes.len()))?;
        self.bytes.extend_from_slice(&len.to_be_bytes());
        self.bytes.extend_from_slice(bytes);
        let content = if bytes.is_empty() { Shape::Nothing } else { Shape::Buffer(u64::from(len)) };
        Ok(Shape::Counted(Box::new(content)))
    }

    fn variant(&mut self, index: u32) -> Result<(), EncodeError> {
        let index = u8::try_from(index).map_err(|_| EncodeError::new("an enum of more than 256 variants"))?;
        self.bytes.push(index);
        Ok(())
    }

    fn boxed(&self, shape: Shape) -> Box<Shape> {
        Box::new(if self.describe { shape } else { Shape::Nothing })
    }
}

fn too_many(len: usize) -> EncodeError {
    EncodeError::new(format_args!("{len} elements, more than a count of 32 bits can say"))
}

fn no_form<T>(what: &str) -> Result<T, EncodeError> {
    Err(EncodeError::new(format_args!("there is no form for {what}")))
}

macro_rules! scalars {
    ($($method:ident $kind:literal: $type:ty),*) => {
        $(fn $method(self, value: $type) -> Result<Shape, EncodeError> {
            Ok(self.put(&value.to_be_bytes(), $kind))
        })*
    };
}

impl<'a> ser::Serializer for &'a mut Writer {
    type Ok = Shape;
    type Error = EncodeError;
    type SerializeSeq = Sequence<'a>;
    type SerializeTuple = Sequence<'a>;
    type SerializeTupleStruct = Sequence<'a>;
    type SerializeTupleVariant = Sequence<'a>;
    type SerializeMap = ser::Impossible<Shape, EncodeError>;
    type SerializeStruct = Fields<'a>;
    type SerializeStructVariant = Fields<'a>;

    scalars! {
        serialize_u8 "uint8": u8, serialize_u16 "uint16": u16, serialize_u32 "uint32": u32,
        serialize_u64 "uint64": u64, serialize_i8 "int8": i8, serialize_i16 "int16": i16,
        serialize_i32 "int32": i32, serialize_i64 "int64": i64
    }

    fn serialize_bool(self, value: bool) -> Result<Shape, EncodeError> {
        Ok(self.put(&[u8::from(value)], "bool"))
    }

    fn serialize_str(self, value: &str) -> Result<Shape, EncodeError> {
        self.counted(value.as_bytes())
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<Shape, EncodeError> {
        self.counted(value)
    }

    fn serialize_none(self) -> Result<Shape, EncodeError> {
        self.bytes.push(0);
        Ok(Shape::Maybe(None))
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<Shape, EncodeError> {
        self.bytes.push(1);
        let shape = self.inner(value)?;
        Ok(Shape::Maybe(Some(self.boxed(shape))))
    }

    fn serialize_unit(self) -> Result<Shape, EncodeError> {
        Ok(Shape::Nothing)
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<Shape, EncodeError> {
        Ok(Shape::Nothing)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<Shape, EncodeError> {
        self.inner(value)
    }

    fn serialize_unit_variant(
        self,
        _: &'static str,
        index: u32,
        variant: &'static str,
    ) -> Result<Shape, EncodeError> {
        self.variant(index)?;
        Ok(Shape::Variant(variant, Box::new(Shape::Nothing)))
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        index: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<Shape, EncodeError> {
        self.variant(index)?;
        let shape = self.inner(value)?;
        Ok(Shape::Variant(variant, self.boxed(shape)))
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Sequence<'a>, EncodeError> {
        let count = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        Ok(Sequence {
            writer: self,
            count: Some(count),
            variant: None,
            len: 0,
            elements: Elements::default(),
        })
    }

    fn serialize_tuple(self, _: usize) -> Result<Sequence<'a>, EncodeError> {
        Ok(Sequence { writer: self, count: None, variant: None, len: 0, elements: Elements::default() })
    }

    fn serialize_tuple_struct(self, _: &'static str, len: usize) -> Result<Sequence<'a>, EncodeError> {
        self.serialize_tuple(len)
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        index: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Sequence<'a>, EncodeError> {
        self.variant(index)?;
        Ok(Sequence { variant: Some(variant), ..self.serialize_tuple(len)? })
    }

    fn serialize_struct(self, type_name: &'static str, _: usize) -> Result<Fields<'a>, EncodeError> {
        Ok(Fields { writer: self, type_name, variant: None, described: Vec::new() })
    }

    fn serialize_struct_variant(
        self,
        type_name: &'static str,
        index: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Fields<'a>, EncodeError> {
        self.variant(index)?;
        Ok(Fields { writer: self, type_name, variant: Some(variant), described: Vec::new() })
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Self::SerializeMap, EncodeError> {
        no_form("maps")
    }

    fn serialize_f32(self, _: f32) -> Result<Shape, EncodeError> {
        no_form("f32")
    }

    fn serialize_f64(self, _: f64) -> Result<Shape, EncodeError> {
        no_form("f64")
    }

    fn serialize_char(self, _: char) -> Result<Shape, EncodeError> {
        no_form("char")
    }

    fn is_human_readable(&self) -> bool {
        false
    }
}

/// Elements, after their count or without one.
struct Sequence<'a> {
    writer: &'a mut Writer,
    /// Where the count goes.
    count: Option<usize>,
    variant: Option<&'static str>,
    len: usize,
    elements: Elements,
}

impl Sequence<'_> {
    fn element<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), EncodeError> {
        let begin = self.writer.bytes.len();
        let shape = self.writer.inner(value).map_err(|error| error.inside(self.len))?;
        if self.count.is_some() && self.writer.bytes.len() == begin {
            // A reader could not bound their count by the bytes that it has.
            return Err(EncodeError::new("a list of elements that take no bytes"));
        }
        if self.writer.describe {
            self.elements.push(shape);
        }
        self.len += 1;
        Ok(())
    }

    fn finish(self) -> Result<Shape, EncodeError> {
        let elements = self.elements.shape();
        if let Some(at) = self.count {
            let count = u32::try_from(self.len).map_err(|_| too_many(self.len))?;
            self.writer.bytes[at..at + 4].copy_from_slice(&count.to_be_bytes());
            return Ok(Shape::Counted(Box::new(elements)));
        }
        Ok(match self.variant {
            Some(variant) => Shape::Variant(variant, Box::new(elements)),
            None => elements,
        })
    }
}

macro_rules! sequence {
    ($($trait:ident $method:ident),*) => {
        $(impl ser::$trait for Sequence<'_> {
            type Ok = Shape;
            type Error = EncodeError;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), EncodeError> {
                self.element(value)
            }

            fn end(self) -> Result<Shape, EncodeError> {
                self.finish()
            }
        })*
    };
}

sequence! {
    SerializeSeq serialize_element, SerializeTuple serialize_element,
    SerializeTupleStruct serialize_field, SerializeTupleVariant serialize_field
}

/// A struct's fields.
struct Fields<'a> {
    writer: &'a mut Writer,
    type_name: &'static str,
    variant: Option<&'static str>,
    described: Vec<Field>,
}

impl Fields<'_> {
    fn field<T: Serialize + ?Sized>(&mut self, name: &str, value: &T) -> Result<(), EncodeError> {
        let shape = self.writer.inner(value).map_err(|error| error.inside(name))?;
        if self.writer.describe {
            shape.fields(name, &mut self.described);
        }
        Ok(())
    }

    fn finish(self) -> Shape {
        let content = Shape::Struct(self.type_name, self.described);
        match self.variant {
            Some(variant) => Shape::Variant(variant, Box::new(content)),
            None => content,
        }
    }
}

macro_rules! fields {
    ($($trait:ident),*) => {
        $(impl ser::$trait for Fields<'_> {
            type Ok = Shape;
            type Error = EncodeError;

            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                name: &'static str,
                value: &T,
            ) -> Result<(), EncodeError> {
                self.field(name, value)
            }

            fn skip_field(&mut self, name: &'static str) -> Result<(), EncodeError> {
                // A reader could not know.
                Err(EncodeError::new("a field is left out: use an Option").inside(name))
            }

            fn end(self) -> Result<Shape, EncodeError> {
                Ok(self.finish())
            }
        })*
    };
}

fields! { SerializeStruct, SerializeStructVariant }

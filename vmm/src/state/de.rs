//! Bytes to a state, never believing a count.

use super::{Cause, DEPTH, DecodeError};
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, EnumAccess, IntoDeserializer, SeqAccess, VariantAccess, Visitor,
};

/// A value that takes all of these bytes.
pub(super) fn deserialize<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    let mut reader = Reader { bytes, offset: 0, depth: 0 };
    let value = T::deserialize(&mut reader).map_err(|error| error.at(reader.offset))?;
    if reader.left() > 0 {
        return Err(reader.error(Cause::Trailing(reader.left())));
    }
    Ok(value)
}

struct Reader<'de> {
    bytes: &'de [u8],
    offset: usize,
    depth: usize,
}

impl<'de> Reader<'de> {
    fn left(&self) -> usize {
        self.bytes.len() - self.offset
    }

    fn error(&self, cause: Cause) -> DecodeError {
        DecodeError::new(self.offset, cause)
    }

    fn take(&mut self, wanted: usize) -> Result<&'de [u8], DecodeError> {
        let taken = self.bytes[self.offset..].get(..wanted);
        let taken = taken.ok_or_else(|| self.error(Cause::Short { wanted, left: self.left() }))?;
        self.offset += wanted;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    /// A count of things that take a byte at least.
    fn count(&mut self) -> Result<usize, DecodeError> {
        let at = self.offset;
        let count = u32::from_be_bytes(self.array()?);
        let left = self.left();
        if count as usize > left {
            return Err(DecodeError::new(at, Cause::Count { count, left }));
        }
        Ok(count as usize)
    }

    fn yes_or_no(&mut self) -> Result<bool, DecodeError> {
        let at = self.offset;
        match self.array()? {
            [0] => Ok(false),
            [1] => Ok(true),
            [other] => Err(DecodeError::new(at, Cause::Bool(other))),
        }
    }

    fn unsupported<T>(&self, what: &'static str) -> Result<T, DecodeError> {
        Err(self.error(Cause::Unsupported(what)))
    }

    /// A value that is in another one.
    fn inner<T>(&mut self, read: impl FnOnce(&mut Self) -> Result<T, DecodeError>) -> Result<T, DecodeError> {
        if self.depth == DEPTH {
            return Err(self.error(Cause::Depth));
        }
        self.depth += 1;
        let begin = self.offset;
        let value = read(self).map_err(|error| error.at(begin))?;
        self.depth -= 1;
        Ok(value)
    }
}

macro_rules! scalars {
    ($($method:ident $visit:ident: $type:ty),*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
            visitor.$visit(<$type>::from_be_bytes(self.array()?))
        })*
    };
}

macro_rules! unsupported {
    ($($method:ident $what:literal),*) => {
        $(fn $method<V: Visitor<'de>>(self, _: V) -> Result<V::Value, DecodeError> {
            self.unsupported($what)
        })*
    };
}

impl<'de> de::Deserializer<'de> for &mut Reader<'de> {
    type Error = DecodeError;

    scalars! {
        deserialize_u8 visit_u8: u8, deserialize_u16 visit_u16: u16, deserialize_u32 visit_u32: u32,
        deserialize_u64 visit_u64: u64, deserialize_i8 visit_i8: i8, deserialize_i16 visit_i16: i16,
        deserialize_i32 visit_i32: i32, deserialize_i64 visit_i64: i64
    }

    unsupported! {
        deserialize_any "types that ask what is there", deserialize_ignored_any "fields that are ignored",
        deserialize_identifier "names", deserialize_f32 "f32", deserialize_f64 "f64", deserialize_char "char"
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_bool(self.yes_or_no()?)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let count = self.count()?;
        let at = self.offset;
        let text = std::str::from_utf8(self.take(count)?);
        visitor.visit_str(text.map_err(|_| DecodeError::new(at, Cause::Text))?)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let count = self.count()?;
        visitor.visit_bytes(self.take(count)?)
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        self.deserialize_bytes(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        if self.yes_or_no()? { self.inner(|reader| visitor.visit_some(reader)) } else { visitor.visit_none() }
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        visitor.visit_unit()
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        self.inner(|reader| visitor.visit_newtype_struct(reader))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, DecodeError> {
        let len = self.count()?;
        visitor.visit_seq(Sequence { reader: self, len, next: 0, names: &[] })
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, DecodeError> {
        visitor.visit_seq(Sequence { reader: self, len, next: 0, names: &[] })
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        self.deserialize_tuple(len, visitor)
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        names: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        visitor.visit_seq(Sequence { reader: self, len: names.len(), next: 0, names })
    }

    fn deserialize_map<V: Visitor<'de>>(self, _: V) -> Result<V::Value, DecodeError> {
        self.unsupported("maps")
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        visitor.visit_enum(self)
    }

    fn is_human_readable(&self) -> bool {
        false
    }
}

/// Elements, or fields with names.
struct Sequence<'a, 'de> {
    reader: &'a mut Reader<'de>,
    len: usize,
    next: usize,
    names: &'static [&'static str],
}

impl<'de> SeqAccess<'de> for Sequence<'_, 'de> {
    type Error = DecodeError;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, DecodeError> {
        if self.next == self.len {
            return Ok(None);
        }
        let (at, names) = (self.next, self.names);
        self.next += 1;
        let value = self.reader.inner(|reader| seed.deserialize(reader));
        value.map(Some).map_err(|error| match names.get(at) {
            Some(name) => error.inside(name),
            None => error.inside(at),
        })
    }

    fn size_hint(&self) -> Option<usize> {
        // No more than there are bytes: a list's count was compared with them.
        Some(self.len - self.next)
    }
}

impl<'de> EnumAccess<'de> for &mut Reader<'de> {
    type Error = DecodeError;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), DecodeError> {
        let at = self.offset;
        let [index] = self.array()?;
        let index: de::value::U32Deserializer<DecodeError> = u32::from(index).into_deserializer();
        let variant = seed.deserialize(index).map_err(|error| error.at(at))?;
        Ok((variant, self))
    }
}

impl<'de> VariantAccess<'de> for &mut Reader<'de> {
    type Error = DecodeError;

    fn unit_variant(self) -> Result<(), DecodeError> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, DecodeError> {
        self.inner(|reader| seed.deserialize(reader))
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, DecodeError> {
        de::Deserializer::deserialize_tuple(self, len, visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        names: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, DecodeError> {
        de::Deserializer::deserialize_struct(self, "", names, visitor)
    }
}

//! What is written is read; what describes it is true; what is broken is refused. The oracle reads bytes by
//! their description as JSON, and knows nothing of the codec.

use super::*;
use proptest::prelude::*;
use serde::Deserialize;
use serde_json::{Map, Value};

/// A struct with every shape.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Every {
    yes: bool,
    unsigned: (u8, u16, u32, u64),
    signed: Signed,
    mac: [u8; 6],
    none: [u8; 0],
    pairs: [[u16; 2]; 3],
    page: Vec<u8>,
    numbers: Vec<u32>,
    registers: Vec<Register>,
    names: Vec<String>,
    lists: Vec<Vec<u8>>,
    maybe: Option<u64>,
    #[expect(clippy::option_option, reason = "every shape")]
    nested: Option<Option<Register>>,
    maybes: Vec<Option<u16>>,
    text: String,
    mode: Mode,
    modes: Vec<Mode>,
    wrapped: Wrapped,
    nothing: (),
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Signed {
    a: i8,
    b: i16,
    c: i32,
    d: i64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Register {
    index: u32,
    value: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Wrapped(u32);

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Mode {
    Idle,
    Number(u16),
    Both(u8, bool),
    Named { register: Register, bytes: Vec<u8> },
}

impl Section for Every {
    const NAME: &'static str = "every";
    const VERSION: u32 = 3;
}

fn register() -> impl Strategy<Value = Register> {
    any::<(u32, u64)>().prop_map(|(index, value)| Register { index, value })
}

fn mode() -> impl Strategy<Value = Mode> {
    prop_oneof![
        Just(Mode::Idle),
        any::<u16>().prop_map(Mode::Number),
        any::<(u8, bool)>().prop_map(|(a, b)| Mode::Both(a, b)),
        (register(), bytes()).prop_map(|(register, bytes)| Mode::Named { register, bytes }),
    ]
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 0..20)
}

fn few<S: Strategy>(element: S) -> impl Strategy<Value = Vec<S::Value>> {
    proptest::collection::vec(element, 0..4)
}

fn every() -> impl Strategy<Value = Every> {
    let fixed = (any::<bool>(), any::<(u8, u16, u32, u64)>(), any::<(i8, i16, i32, i64)>(), any::<[u8; 6]>());
    let lists = (bytes(), few(any::<u32>()), few(register()), few(".{0,5}"), few(bytes()));
    let optional = (any::<Option<u64>>(), proptest::option::of(proptest::option::of(register())));
    let rest =
        (few(any::<Option<u16>>()), ".{0,9}", mode(), few(mode()), any::<[[u16; 2]; 3]>(), any::<u32>());
    (fixed, lists, optional, rest).prop_map(
        |(
            (yes, unsigned, (a, b, c, d), mac),
            (page, numbers, registers, names, lists),
            (maybe, nested),
            (maybes, text, mode, modes, pairs, wrapped),
        )| Every {
            yes,
            unsigned,
            signed: Signed { a, b, c, d },
            mac,
            none: [],
            pairs,
            page,
            numbers,
            registers,
            names,
            lists,
            maybe,
            nested,
            maybes,
            text,
            mode,
            modes,
            wrapped: Wrapped(wrapped),
            nothing: (),
        },
    )
}

/// Reads bytes by their description.
struct Oracle<'a>(&'a [u8]);

impl Oracle<'_> {
    fn take(&mut self, len: u64) -> Vec<u8> {
        let (taken, rest) = self.0.split_at(usize::try_from(len).unwrap());
        self.0 = rest;
        taken.to_vec()
    }

    fn one(&mut self, field: &Value) -> Value {
        let size = field["size"].as_u64().unwrap();
        let kind = field["type"].as_str().unwrap();
        if kind == "struct" {
            let before = self.0.len();
            let value = self.fields(&field["struct"]["fields"]);
            assert_eq!(before - self.0.len(), usize::try_from(size).unwrap(), "{field}");
            // A list in a list has no names of its own.
            return if field["struct"]["vmsd_name"] == "value" { value["value"].clone() } else { value };
        }
        let bytes = self.take(size);
        let number = bytes.iter().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
        match kind {
            "buffer" => Value::from(bytes),
            "bool" => Value::from(number == 1),
            "int8" | "int16" | "int32" | "int64" => {
                let unused = 64 - 8 * u32::try_from(size).unwrap();
                Value::from((number << unused) as i64 >> unused)
            }
            "uint8" | "uint16" | "uint32" | "uint64" => match field["variant"].as_str() {
                Some(name) => Value::from(name),
                None => Value::from(number),
            },
            other => panic!("{other}"),
        }
    }

    fn fields(&mut self, fields: &Value) -> Value {
        let mut values = Map::new();
        for field in fields.as_array().unwrap() {
            let name = field["name"].as_str().unwrap();
            if let Some(len) = field["array_len"].as_u64() {
                let elements: Vec<Value> = (0..len).map(|_| self.one(field)).collect();
                values.insert(name.into(), elements.into());
            } else if let Some(index) = field["index"].as_u64() {
                let element = self.one(field);
                if index == 0 {
                    values.insert(name.into(), Value::Array(Vec::new()));
                }
                let elements = values[name].as_array_mut().unwrap();
                assert_eq!(elements.len(), usize::try_from(index).unwrap());
                elements.push(element);
            } else {
                let value = self.one(field);
                let (above, last) = name.rsplit_once('.').unwrap_or(("", name));
                match last {
                    "len" if value == 0 => drop(values.insert(above.into(), Value::Array(Vec::new()))),
                    // Of an option in an option the inner one speaks first of its value.
                    "present" if value == false => {
                        drop(values.insert(above.trim_end_matches(".present").into(), Value::Null));
                    }
                    "len" | "present" => {}
                    _ => drop(values.insert(name.into(), value)),
                }
            }
        }
        // What an enum's value holds.
        let names: Vec<String> = values.keys().cloned().collect();
        for name in names {
            let Some((above, variant)) = name.rsplit_once('.') else { continue };
            if values.get(above) == Some(&Value::from(variant)) {
                let content = values.remove(&name);
                values.insert(above.into(), serde_json::json!({ variant: content }));
            }
        }
        values.into()
    }
}

/// As the oracle sees it: texts are their bytes, and what takes no bytes is not there.
fn seen(value: Value) -> Value {
    match value {
        Value::Object(fields) => fields
            .into_iter()
            .filter(|(name, value)| {
                name != "nothing" && !(name == "none" && value.as_array().unwrap().is_empty())
            })
            .map(|(name, value)| {
                let named = ["mode", "value"].contains(&name.as_str());
                let value = match value {
                    Value::String(text) if !named => Value::from(text.into_bytes()),
                    Value::Array(list) if name == "names" => {
                        list.into_iter().map(|text| text.as_str().unwrap().as_bytes().to_vec()).collect()
                    }
                    other => seen(other),
                };
                (name, value)
            })
            .collect(),
        Value::Array(list) => list.into_iter().map(seen).collect(),
        other => other,
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read(state in every()) {
        let encoded = encode(&state).unwrap();
        prop_assert_eq!(decode::<Every>(3, &encoded.bytes).unwrap(), state.clone());
        let again = encode(&decode::<Every>(3, &encoded.bytes).unwrap()).unwrap();
        prop_assert_eq!(&again, &encoded);
        let bare = encode_bare(&state).unwrap();
        prop_assert!(bare.fields.is_empty());
        prop_assert_eq!(bare.bytes, encoded.bytes);
    }

    #[test]
    fn the_description_is_true(state in every()) {
        let encoded = encode(&state).unwrap();
        let description = serde_json::to_value(&encoded.fields).unwrap();
        let mut oracle = Oracle(&encoded.bytes);
        let values = oracle.fields(&description);
        prop_assert!(oracle.0.is_empty());
        prop_assert_eq!(values, seen(serde_json::to_value(&state).unwrap()));
    }

    #[test]
    fn less_than_all_and_more_than_all_are_refused(state in every(), more in 1..9_usize) {
        let mut bytes = encode(&state).unwrap().bytes;
        for len in 0..bytes.len() {
            let error = decode::<Every>(3, &bytes[..len]).unwrap_err();
            prop_assert!(matches!(error.cause(), Cause::Short { .. } | Cause::Count { .. }), "{}", error);
        }
        let len = bytes.len();
        bytes.resize(len + more, 0);
        let error = decode::<Every>(3, &bytes).unwrap_err();
        prop_assert_eq!((error.cause(), error.offset()), (&Cause::Trailing(more), len));
    }

    #[test]
    fn any_bytes_are_a_state_that_writes_them_or_an_error(bytes in proptest::collection::vec(0..5_u8, 0..300)) {
        if let Ok(state) = decode::<Every>(3, &bytes) {
            prop_assert_eq!(encode(&state).unwrap().bytes, bytes);
        }
    }
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Small {
    line: Line,
    data: Vec<u32>,
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Line {
    level: bool,
    name: String,
}

impl Section for Small {
    const NAME: &'static str = "small";
    const VERSION: u32 = 2;

    fn upgrade(version: u32, bytes: &[u8]) -> Result<Self, DecodeError> {
        match version {
            1 => Ok(Self { line: from_bytes(bytes)?, data: vec![7] }),
            other => Err(DecodeError::version(Self::NAME, other, Self::VERSION)),
        }
    }
}

fn small() -> Small {
    Small { line: Line { level: true, name: "irq".into() }, data: vec![1, 2] }
}

#[test]
fn the_layout_is_what_the_table_says() {
    let encoded = encode(&small()).unwrap().instance(4);
    assert_eq!(encoded.bytes, *b"\x01\0\0\0\x03irq\0\0\0\x02\0\0\0\x01\0\0\0\x02");
    assert_eq!((encoded.name.as_str(), encoded.instance, encoded.version), ("small", 4, 2));
    let described = serde_json::json!([
        {"name": "line", "type": "struct", "size": 8, "struct": {"vmsd_name": "Line", "version": 1, "fields": [
            {"name": "level", "type": "bool", "size": 1},
            {"name": "name.len", "type": "uint32", "size": 4},
            {"name": "name", "type": "buffer", "size": 3},
        ]}},
        {"name": "data.len", "type": "uint32", "size": 4},
        {"name": "data", "type": "uint32", "size": 4, "array_len": 2},
    ]);
    assert_eq!(serde_json::to_value(&encoded.fields).unwrap(), described);
}

#[test]
fn an_older_version_is_read_by_who_knows_it_and_an_unknown_one_is_named() {
    let old = b"\x01\0\0\0\x03irq";
    assert_eq!(decode::<Small>(1, old).unwrap(), Small { data: vec![7], ..small() });
    let error = decode::<Small>(9, old).unwrap_err();
    assert_eq!(error.cause(), &Cause::Version { found: 9, known: 2 });
    assert!(error.to_string().starts_with("cannot read section small (version 9)"), "{error}");
    assert!(
        decode::<Small>(1, &old[..5])
            .unwrap_err()
            .to_string()
            .contains("section small (version 1), field name")
    );
}

#[test]
fn an_error_says_which_field_and_where() {
    let bytes = encode(&small()).unwrap().bytes;
    let broken = |at: usize, byte: u8| {
        let mut bytes = bytes.clone();
        bytes[at] = byte;
        decode::<Small>(2, &bytes).unwrap_err()
    };
    let error = broken(0, 2);
    assert_eq!((error.cause(), error.offset()), (&Cause::Bool(2), 0));
    assert!(error.to_string().contains("field line.level, byte 0"), "{error}");
    let error = broken(6, 0xff);
    assert_eq!((error.cause(), error.offset()), (&Cause::Text, 5));
    let error = broken(8, 0xff);
    assert_eq!(error.cause(), &Cause::Count { count: 0xff00_0002, left: 8 });
    assert!(error.to_string().contains("field data, byte 8"), "{error}");
    let error = broken(11, 3);
    assert_eq!(error.cause(), &Cause::Short { wanted: 4, left: 0 });
    assert!(error.to_string().contains("field data.2, byte 20"), "{error}");
    let error = from_bytes::<Mode>(&[4]).unwrap_err();
    assert_eq!(error.offset(), 0);
    assert!(error.to_string().contains("variant index 0 <= i < 4"), "{error}");
}

#[test]
fn what_has_no_form_is_an_error_on_both_sides() {
    #[derive(Debug, Serialize, Deserialize)]
    struct Odd<T>(T);
    impl<T: Serialize + serde::de::DeserializeOwned> Section for Odd<T> {
        const NAME: &'static str = "odd";
        const VERSION: u32 = 1;
    }
    fn refused<T: Serialize + serde::de::DeserializeOwned>(value: T) -> String {
        encode(&Odd(value)).unwrap_err().to_string()
    }
    assert!(refused(1.5_f64).contains("f64"));
    assert!(refused('x').contains("char"));
    assert!(refused(std::collections::BTreeMap::from([(1, 2)])).contains("maps"));
    assert!(refused(vec![(), ()]).contains("take no bytes"));
    let map = from_bytes::<std::collections::BTreeMap<u8, u8>>(&[0; 8]).unwrap_err();
    assert_eq!(map.cause(), &Cause::Unsupported("maps"));
    assert_eq!(from_bytes::<f32>(&[0; 8]).unwrap_err().cause(), &Cause::Unsupported("f32"));
    assert_eq!(
        from_bytes::<Value>(&[0; 8]).unwrap_err().cause(),
        &Cause::Unsupported("types that ask what is there")
    );
}

#[test]
fn nesting_ends_somewhere() {
    #[derive(Debug, Serialize, Deserialize)]
    struct Deep(Option<Box<Deep>>);
    impl Section for Deep {
        const NAME: &'static str = "deep";
        const VERSION: u32 = 1;
    }
    let deep = |levels| (0..levels).fold(Deep(None), |inner, _| Deep(Some(Box::new(inner))));
    assert!(encode(&deep(5)).is_ok());
    assert!(encode(&deep(1000)).unwrap_err().to_string().contains("nested too deep"));
    assert_eq!(from_bytes::<Deep>(&vec![1; 100_000]).unwrap_err().cause(), &Cause::Depth);
}

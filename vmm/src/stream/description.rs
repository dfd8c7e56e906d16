//! The VM description: what the fields of all sections are, as JSON behind the end of the stream.

use super::format::{DESCRIPTION_LIMIT, MACHINE, PAGE_SIZE};
use crate::state::{Encoded, Field, Struct};
use serde::{Deserialize, Serialize};

/// Of a whole stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Description {
    /// The machine's name, as a section.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub configuration: Option<Struct>,
    /// The size of a page.
    pub page_size: u64,
    /// The devices.
    pub devices: Vec<Device>,
}

/// Of a device.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Device {
    /// The section's name.
    pub name: String,
    /// Which of several of that name.
    pub instance_id: u32,
    /// Its fields.
    #[serde(flatten)]
    pub content: Struct,
}

/// How the length of a device's state is called, which stands before it.
pub const LENGTH: &str = "state.len";

impl Description {
    /// Of our devices.
    pub fn of(devices: &[Encoded]) -> Self {
        let name = Field::buffer("name".into(), MACHINE.len() as u64);
        let fields = vec![Field::count("len".into()), name];
        let configuration =
            Struct { vmsd_name: "configuration".into(), version: 1, fields, subsections: Vec::new() };
        let devices = devices.iter().map(Device::of).collect();
        Self { configuration: Some(configuration), page_size: PAGE_SIZE as u64, devices }
    }

    /// As JSON, padded so that it can be found from the end of a file.
    ///
    /// QEMU's script looks for the last zero byte and the first brace behind it, and expects the JSON there: the
    /// length before it must have a zero byte (it is under 16 MiB) and no byte that is a brace.
    pub fn to_json(&self) -> Result<Vec<u8>, String> {
        let mut json = serde_json::to_vec(self).map_err(|error| error.to_string())?;
        let limit = DESCRIPTION_LIMIT as usize;
        let len = (json.len()..=limit).find(|len| !(*len as u32).to_be_bytes().contains(&b'{'));
        let len = len.ok_or_else(|| format!("of {} bytes is too large, {limit} is the most", json.len()))?;
        json.resize(len, b' ');
        Ok(json)
    }
}

impl Device {
    fn of(device: &Encoded) -> Self {
        let mut fields = vec![Field::count(LENGTH.to_owned())];
        fields.extend_from_slice(&device.fields);
        let (vmsd_name, version) = (device.name.clone(), device.version);
        let content = Struct { vmsd_name, version, fields, subsections: Vec::new() };
        Self { name: device.name.clone(), instance_id: device.instance, content }
    }
}

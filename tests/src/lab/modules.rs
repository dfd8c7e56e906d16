//! Kernel modules: which ones a module needs, from `modules.dep`.

use super::cpio::Archive;
use super::store::KernelFiles;
use anyhow::{Context, Result};
use std::collections::HashMap;
use std::fs;

/// `modules.dep`, read.
#[derive(Debug)]
pub(super) struct Modules<'a> {
    kernel: &'a KernelFiles,
    /// A module's path and the paths of what it needs, by its name.
    known: HashMap<String, (String, Vec<String>)>,
}

impl<'a> Modules<'a> {
    pub(super) fn of(kernel: &'a KernelFiles) -> Result<Self> {
        let path = kernel.modules.join(&kernel.release).join("modules.dep");
        let text = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Self { kernel, known: parse(&text) })
    }

    /// Paths of modules and of all that they need, in an order in which they can be loaded. What is
    /// built into this kernel has no module and is left out.
    fn in_order(&self, names: &[&str]) -> Vec<&str> {
        let mut order = Vec::new();
        names.iter().for_each(|name| self.visit(name, &mut order));
        order
    }

    fn visit<'s>(&'s self, name: &str, order: &mut Vec<&'s str>) {
        let Some((path, needs)) = self.known.get(&plain(name)) else { return };
        if order.contains(&path.as_str()) {
            return;
        }
        needs.iter().for_each(|need| self.visit(base(need), order));
        // A loop between modules would be depmod's error; this ends all the same.
        if !order.contains(&path.as_str()) {
            order.push(path);
        }
    }

    /// Puts modules and what they need into `lib/`, and their order into `lib/order`.
    pub(super) fn pack(&self, names: &[&str], archive: &mut Archive) -> Result<()> {
        let mut order = String::new();
        for path in self.in_order(names) {
            let file = format!("{}.ko", plain(base(path)));
            archive.copy(
                &format!("lib/{file}"),
                &self.kernel.modules.join(&self.kernel.release).join(path),
                false,
            )?;
            order.push_str(&file);
            order.push('\n');
        }
        archive.file("lib/order", order.as_bytes(), false)
    }
}

fn parse(text: &str) -> HashMap<String, (String, Vec<String>)> {
    let line = |line: &str| {
        let (path, needs) = line.split_once(':')?;
        // The nearest need comes first there; loading wants it last.
        let needs = needs.split_whitespace().rev().map(str::to_owned).collect();
        Some((plain(base(path)), (path.to_owned(), needs)))
    };
    text.lines().filter_map(line).collect()
}

/// `a-b.ko` of `kernel/x/a-b.ko`, without its end.
fn base(path: &str) -> &str {
    let file = path.rsplit('/').next().unwrap_or(path);
    file.strip_suffix(".ko").unwrap_or(file)
}

/// The kernel takes `-` and `_` in names of modules for the same.
fn plain(name: &str) -> String {
    name.replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    #[test]
    fn what_is_needed_comes_first_and_once() {
        let text = "\
kernel/net/virtio_net.ko: kernel/net/net_failover.ko kernel/core/failover.ko kernel/virtio/virtio.ko
kernel/net/net_failover.ko: kernel/core/failover.ko
kernel/core/failover.ko:
kernel/virtio/virtio.ko:
kernel/char/virtio-rng.ko: kernel/virtio/virtio.ko
";
        let kernel = KernelFiles { release: String::new(), image: PathBuf::new(), modules: PathBuf::new() };
        let modules = Modules { kernel: &kernel, known: parse(text) };
        let order = modules.in_order(&["virtio_net", "virtio_rng", "built_in"]);
        assert_eq!(order.len(), 5);
        let place = |name: &str| order.iter().position(|path| base(path) == name).unwrap();
        assert!(place("failover") < place("net_failover") && place("net_failover") < place("virtio_net"));
        assert!(place("virtio") < place("virtio_net") && place("virtio") < place("virtio-rng"));
    }
}

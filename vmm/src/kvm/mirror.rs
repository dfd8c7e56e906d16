//! KVM's structs as ours: named fields alone, which serde can write and people can read.

/// Makes a struct with these fields of one of KVM's, and both ways between them. A field is KVM's field of
/// that name, or the one at the path after `=`; what is padding in KVM's struct is left out.
macro_rules! mirror {
    ($(#[$meta:meta])* $name:ident of $kvm:ident {
        $($(#[$doc:meta])* $field:ident: $type:ty $(= $($path:ident).+)?),* $(,)?
    }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
        #[expect(missing_docs, reason = "the fields have their names from the processor's manuals and KVM's")]
        pub struct $name {
            $($(#[$doc])* pub $field: $type,)*
        }

        impl From<&$kvm> for $name {
            fn from(kvm: &$kvm) -> Self {
                Self { $($field: crate::kvm::mirror::mirror!(@ours $type, kvm, $field $(, $($path).+)?),)* }
            }
        }

        impl From<&$name> for $kvm {
            fn from(ours: &$name) -> Self {
                let mut kvm = Self::default();
                $(crate::kvm::mirror::mirror!(@theirs kvm, ours, $field $(, $($path).+)?);)*
                kvm
            }
        }
    };
    (@ours $type:ty, $kvm:ident, $field:ident) => { <$type as crate::kvm::mirror::Same<_>>::of(&$kvm.$field) };
    (@ours $type:ty, $kvm:ident, $field:ident, $($path:ident).+) => {
        <$type as crate::kvm::mirror::Same<_>>::of(&$kvm.$($path).+)
    };
    (@theirs $kvm:ident, $ours:ident, $field:ident) => {
        $kvm.$field = crate::kvm::mirror::Same::back(&$ours.$field)
    };
    (@theirs $kvm:ident, $ours:ident, $field:ident, $($path:ident).+) => {
        $kvm.$($path).+ = crate::kvm::mirror::Same::back(&$ours.$field)
    };
}

pub(crate) use mirror;

/// A field that is the same here and there: a number, an array of them, or a mirror.
pub(crate) trait Same<T> {
    fn of(theirs: &T) -> Self;
    fn back(&self) -> T;
}

macro_rules! plain {
    ($($type:ty),*) => {$(
        impl Same<$type> for $type {
            fn of(theirs: &$type) -> Self { *theirs }
            fn back(&self) -> $type { *self }
        }
        impl<const N: usize> Same<[$type; N]> for [$type; N] {
            fn of(theirs: &[$type; N]) -> Self { *theirs }
            fn back(&self) -> [$type; N] { *self }
        }
    )*};
}

plain!(u8, u16, u32, u64);

/// A flag that KVM keeps in a byte.
impl Same<u8> for bool {
    fn of(theirs: &u8) -> Self {
        *theirs != 0
    }
    fn back(&self) -> u8 {
        u8::from(*self)
    }
}

//! Looking at a component without running or compiling it: what it imports and exports, which
//! engine it needs, and whether compiling it stays within bounds.
//!
//! The bytes come from anywhere. Nothing here allocates by what they claim, and a component
//! that passes has been parsed section by section, though not yet validated.

use wasmparser::{
    CanonicalFunction, CanonicalOption, ComponentDefinedType, ComponentType,
    ComponentTypeDeclaration, ComponentTypeRef, Encoding, InstanceTypeDeclaration, Parser, Payload,
    TypeBounds,
};

use crate::error::LoadError;

/// What a component shows of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Inspection {
    /// The names of its imports, in order.
    pub imports: Vec<String>,
    /// The names of its exports, in order.
    pub exports: Vec<String>,
    /// Whether anything in it is asynchronous, so that it needs the engine for that.
    pub concurrent: bool,
}

/// Bounds on what is compiled, so that compiling ends soon. CPython and SpiderMonkey, the
/// largest programs that people make components of, stay below a third of each.
struct Bound {
    what: &'static str,
    limit: u64,
}

const FUNCTIONS: Bound = Bound {
    what: "functions in all",
    limit: 200_000,
};
const BODY: Bound = Bound {
    what: "bytes in one function",
    limit: 2 << 20,
};
const LOCALS: Bound = Bound {
    what: "local variables in all",
    limit: 8_000_000,
};
const MODULES: Bound = Bound {
    what: "modules and nested components",
    limit: 500,
};
const ITEMS: Bound = Bound {
    what: "types, imports, exports, instances and aliases",
    limit: 400_000,
};

impl Bound {
    fn check(&self, found: u64) -> Result<(), LoadError> {
        if found > self.limit {
            return Err(LoadError::TooComplex {
                what: self.what,
                found,
                limit: self.limit,
            });
        }
        Ok(())
    }
}

fn malformed(error: wasmparser::BinaryReaderError) -> LoadError {
    LoadError::Malformed {
        reason: error.to_string(),
    }
}

#[derive(Default)]
struct Counts {
    functions: u64,
    locals: u64,
    parts: u64,
    items: u64,
}

impl Counts {
    fn items(&mut self, count: u32) -> Result<(), LoadError> {
        self.items += u64::from(count);
        ITEMS.check(self.items)
    }
}

/// Reads the sections of a component.
///
/// # Errors
/// [`LoadError::Malformed`] or [`LoadError::TooComplex`].
pub(crate) fn inspect(bytes: &[u8]) -> Result<Inspection, LoadError> {
    if Parser::is_core_wasm(bytes) {
        return Err(LoadError::Malformed {
            reason: "it is a core module, not a component; build it for the target \
                     wasm32-wasip2, or wrap it with `wasm-tools component new`"
                .to_owned(),
        });
    }
    let mut found = Inspection::default();
    let mut counts = Counts::default();
    let mut depth = 0_u32;
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(malformed)? {
            Payload::Version { encoding, .. } => {
                depth += 1;
                if depth == 1 && encoding != Encoding::Component {
                    return Err(LoadError::Malformed {
                        reason: "it is not a component".to_owned(),
                    });
                }
                counts.parts += 1;
                MODULES.check(counts.parts)?;
            }
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentImportSection(section) => {
                counts.items(section.count())?;
                for import in section {
                    let import = import.map_err(malformed)?;
                    // A type that equals another one is only a name for it: nothing that a host
                    // has to provide, and nothing that a guest can do.
                    let is_alias = matches!(import.ty, ComponentTypeRef::Type(TypeBounds::Eq(_)));
                    if depth == 1 && !is_alias {
                        found.imports.push(import.name.name.to_owned());
                    }
                }
            }
            Payload::ComponentExportSection(section) => {
                counts.items(section.count())?;
                for export in section {
                    let export = export.map_err(malformed)?;
                    if depth == 1 {
                        found.exports.push(export.name.name.to_owned());
                    }
                }
            }
            Payload::ComponentTypeSection(section) => {
                counts.items(section.count())?;
                for ty in section {
                    found.concurrent |= type_is_async(&ty.map_err(malformed)?);
                }
            }
            Payload::ComponentCanonicalSection(section) => {
                counts.items(section.count())?;
                for function in section {
                    found.concurrent |= canonical_is_async(&function.map_err(malformed)?);
                }
            }
            Payload::CodeSectionStart { count, .. } => {
                counts.functions += u64::from(count);
                FUNCTIONS.check(counts.functions)?;
            }
            Payload::CodeSectionEntry(body) => {
                BODY.check(body.range().len() as u64)?;
                for group in body.get_locals_reader().map_err(malformed)? {
                    counts.locals += u64::from(group.map_err(malformed)?.0);
                }
                LOCALS.check(counts.locals)?;
            }
            Payload::TypeSection(section) => counts.items(section.count())?,
            Payload::ImportSection(section) => counts.items(section.count())?,
            Payload::ExportSection(section) => counts.items(section.count())?,
            Payload::InstanceSection(section) => counts.items(section.count())?,
            Payload::CoreTypeSection(section) => counts.items(section.count())?,
            Payload::ComponentInstanceSection(section) => counts.items(section.count())?,
            Payload::ComponentAliasSection(section) => counts.items(section.count())?,
            _ => {}
        }
    }
    Ok(found)
}

/// Validates the whole component, function bodies included.
pub(crate) fn validate(bytes: &[u8], features: wasmparser::WasmFeatures) -> Result<(), LoadError> {
    wasmparser::Validator::new_with_features(features)
        .validate_all(bytes)
        .map(drop)
        .map_err(malformed)
}

fn type_is_async(ty: &ComponentType<'_>) -> bool {
    match ty {
        ComponentType::Func(function) => function.async_,
        ComponentType::Defined(ty) => matches!(
            ty,
            ComponentDefinedType::Future(_) | ComponentDefinedType::Stream(_)
        ),
        ComponentType::Component(declarations) => declarations.iter().any(|declaration| {
            matches!(declaration, ComponentTypeDeclaration::Type(ty) if type_is_async(ty))
        }),
        ComponentType::Instance(declarations) => declarations.iter().any(|declaration| {
            matches!(declaration, InstanceTypeDeclaration::Type(ty) if type_is_async(ty))
        }),
        ComponentType::Resource { .. } => false,
    }
}

fn canonical_is_async(function: &CanonicalFunction) -> bool {
    match function {
        CanonicalFunction::Lift { options, .. } | CanonicalFunction::Lower { options, .. } => {
            options.iter().any(|option| {
                matches!(
                    option,
                    CanonicalOption::Async | CanonicalOption::Callback(_)
                )
            })
        }
        CanonicalFunction::ResourceNew { .. }
        | CanonicalFunction::ResourceDrop { .. }
        | CanonicalFunction::ResourceRep { .. } => false,
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<Inspection, LoadError> {
        inspect(&wat::parse_str(text).unwrap())
    }

    #[test]
    fn imports_and_exports_of_the_outermost_component_are_listed() {
        let found = of(r#"(component
            (import "wasi:io/poll@0.2.6" (instance))
            (component (import "inner" (instance)))
            (core module $m (func (export "f")))
            (core instance $i (instantiate $m))
            (func (export "run") (canon lift (core func $i "f"))))"#)
        .unwrap();
        assert_eq!(found.imports, ["wasi:io/poll@0.2.6"]);
        assert_eq!(found.exports, ["run"]);
        assert!(!found.concurrent);
    }

    #[test]
    fn a_name_for_a_type_is_no_import_and_a_resource_is() {
        let found = of(r#"(component
            (type $e (enum "a"))
            (import "error" (type (eq $e)))
            (import "thing" (type (sub resource))))"#)
        .unwrap();
        assert_eq!(found.imports, ["thing"]);
    }

    #[test]
    fn anything_asynchronous_is_seen() {
        for text in [
            r#"(component (import "f" (func async)))"#,
            r#"(component (type (stream u8)))"#,
            r#"(component (import "i" (instance (type (future u8)))))"#,
            r#"(component (core func (canon task.cancel)))"#,
        ] {
            assert!(of(text).unwrap().concurrent, "{text}");
        }
    }

    #[test]
    fn a_core_module_is_told_how_to_become_a_component() {
        let error = of("(module)").unwrap_err();
        assert!(error.to_string().contains("wasm32-wasip2"), "{error}");
    }

    #[test]
    fn garbage_is_malformed() {
        for bytes in [&b""[..], b"\0asm", b"hello world", b"\0asm\x0d\0\x01\0\xff"] {
            assert!(
                matches!(inspect(bytes), Err(LoadError::Malformed { .. })),
                "{bytes:?}"
            );
        }
    }

    #[test]
    fn too_many_parts_are_refused_by_name() {
        let modules = "(core module)".repeat(501);
        let error = of(&format!("(component {modules})")).unwrap_err();
        assert!(matches!(
            error,
            LoadError::TooComplex {
                what: "modules and nested components",
                ..
            }
        ));
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let mut component = b"\0asm\x0d\0\x01\0".to_vec();
            component.extend_from_slice(&bytes);
            let _ = inspect(&component);
            let _ = inspect(&bytes);
        }
    }
}

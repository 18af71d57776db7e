//! The Python tests in `python/`: DTM's Python client against the real binary.

use amends_interop::{Program, World, find};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

const SOURCES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/python");

/// The interpreter of a virtual environment in the target folder that holds what `requirements.txt` pins. It is made anew whenever
/// that file or the interpreter behind it is another one.
fn environment(python: &Path) -> PathBuf {
    let requirements = Path::new(SOURCES).join("requirements.txt");
    let pinned = fs::read_to_string(&requirements).expect("requirements.txt");
    let wanted = format!("{}\n{pinned}", python.display());
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("interop-python");
    let (made_of, inside) = (dir.join("made-of.txt"), dir.join("bin/python"));
    if fs::read_to_string(&made_of).is_ok_and(|found| found == wanted) && inside.is_file() {
        return inside;
    }
    let path = |path: &Path| path.to_str().expect("a path that is text").to_owned();
    Program::new(python)
        .args(&["-m", "venv", "--clear", &path(&dir)])
        .run();
    let requirements = path(&requirements);
    Program::new(&inside)
        .args(&["-m", "pip", "install", "--quiet", "--no-deps"])
        .args(&["--disable-pip-version-check", "-r", &requirements])
        .run();
    Program::new(&inside).args(&["-m", "pip", "check"]).run();
    fs::write(made_of, wanted).expect("a note of what it was made of");
    inside
}

#[tokio::test]
async fn the_python_client_works_unchanged() {
    let Some(python) = find("python3") else {
        println!("SKIPPED: python3 is not installed here");
        return;
    };
    let python = environment(&python);
    let world = World::start().await;
    let settings = [("PYTHONDONTWRITEBYTECODE", "1"), ("NO_PROXY", "127.0.0.1")];
    Program::new(python)
        .args(&["-m", "unittest", "discover", "--buffer", "--verbose"])
        .dir(SOURCES)
        .env(world.env())
        .env(settings.map(|(name, value)| (name.to_owned(), value.to_owned())))
        .deadline(Duration::from_secs(180))
        .run();
}

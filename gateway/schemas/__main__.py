"""`python -m gateway.schemas`: write the generated documents beside this file."""

from gateway.schemas import FOLDER, documents

for name, text in documents().items():
    (FOLDER / name).write_text(text, encoding="utf-8")
    print(FOLDER / name)

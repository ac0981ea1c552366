#!/bin/sh
# Writes assets/DejaVuSans.ttf: DejaVu Sans without hints, with the characters of Latin, Greek and Cyrillic text and a
# few signs. Needs Python with fonttools and matplotlib (which ships the font).
set -e
source_font=$(python3 -c 'import matplotlib, pathlib; print(pathlib.Path(matplotlib.get_data_path(), "fonts/ttf/DejaVuSans.ttf"))')
cd "$(dirname "$0")/.."
python3 -m fontTools.subset "$source_font" --output-file=assets/DejaVuSans.ttf --no-hinting \
  --layout-features='' --drop-tables+=GSUB,GPOS,GDEF,FFTM \
  --unicodes=U+0020-007E,U+00A0-017F,U+0370-03FF,U+0400-045F,U+2010-2026,U+2190-2193,U+2206,U+2212,U+2248,U+2264,U+2265
cp "$(dirname "$source_font")/LICENSE_DEJAVU" assets/DejaVuSans.LICENSE

#!/usr/bin/env bash
# Writes the generated protobuf code beside its sources, with the oldest grpcio-tools that tidegrid supports, so that
# the committed code runs on every version from there on. `generate.sh DIR` writes below DIR instead (the drift check).
set -euo pipefail
cd "$(dirname "$0")"
out=${1:-.}
venv=../.venv-proto
if [ ! -x "$venv/bin/protoc-gen-mypy" ]; then
  echo "installing the protobuf compiler into .venv-proto ..."
  "${PYTHON:-python3}" -m venv "$venv"
  "$venv/bin/pip" install -q "grpcio-tools==1.72.1" "grpcio==1.72.1" "protobuf==6.30.2" "mypy-protobuf==3.6.0" "setuptools<80"
fi
mkdir -p "$out"
PATH="$PWD/$venv/bin:$PATH" "$venv/bin/python" -m grpc_tools.protoc -I. \
  --python_out="$out" --grpc_python_out="$out" --mypy_out="quiet:$out" --mypy_grpc_out="quiet:$out" tidegrid/v1/*.proto
find "$out/tidegrid" -name '*_pb2_grpc.py*' | while read -r file; do
  grep -q "/tidegrid.v1\." "$file" || grep -q "class .*Stub" "$file" || rm "$file"
done

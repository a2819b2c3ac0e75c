# A gate for size, latency and accuracy, as .github/actions/shrink:
#   docker build -t onnxprune .
#   docker run --rm -v "$PWD:/work" onnxprune --model model.onnx --data train.npz --max-drop 0.01
# Any other command: docker run --rm -v "$PWD:/work" --entrypoint onnxprune onnxprune inspect model.onnx
FROM python:3.12-slim
COPY . /opt/onnxprune
RUN pip install --no-cache-dir "/opt/onnxprune[cpu,data,report]"
WORKDIR /work
ENTRYPOINT ["python", "/opt/onnxprune/.github/actions/shrink/gate.py"]

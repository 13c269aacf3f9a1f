# docker build -t clipself .            (without a GPU, smaller: --build-arg CPU=1)
# docker run --gpus all -v "$PWD:/data" clipself predict photo.jpg --words "red star, lawn"
FROM python:3.10-slim
ARG CPU=
RUN apt-get update && apt-get install -y --no-install-recommends make && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/clipself_d2
COPY . .
RUN make install ${CPU:+CPU=$CPU} && rm -rf /root/.cache
ENV PATH=/opt/clipself_d2/.venv/bin:$PATH
WORKDIR /data
ENTRYPOINT ["clipself"]
CMD ["--help"]

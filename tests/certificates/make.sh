#!/usr/bin/env bash
# How the certificates beside this file were made, for a hundred years. They protect nothing: the
# keys are public. Run it again only to add one; then all of them change.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

cat > "$work/ca.cnf" <<END
[ca]
default_ca = any
[any]
new_certs_dir = $work
database = $work/index
rand_serial = yes
default_md = sha256
policy = anything
unique_subject = no
[anything]
commonName = supplied
END
: > "$work/index"

# request NAME: a key and a request.
request() {
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes \
        -keyout "$work/$1.key" -out "$work/$1.csr" -subj "/CN=tcpconn test $1"
}

# certify NAME EXTENSION… -- ARGUMENT…: the certificate, valid since before any clock.
certify() {
    local name=$1 extensions=()
    shift
    while [ "$1" != -- ]; do extensions+=("$1"); shift; done
    shift
    printf '%s\n' "${extensions[@]}" > "$work/$name.ext"
    openssl ca -batch -notext -config "$work/ca.cnf" -startdate 20000101000000Z \
        -enddate 21000101000000Z -in "$work/$name.csr" -out "$work/$name.pem" \
        -extfile "$work/$name.ext" "$@"
}

# authority NAME: a certificate that signs others.
authority() {
    request "$1"
    certify "$1" basicConstraints=critical,CA:TRUE keyUsage=critical,keyCertSign,cRLSign \
        subjectKeyIdentifier=hash -- -selfsign -keyfile "$work/$1.key"
    cp "$work/$1.pem" "$1.pem"
}

# signed AUTHORITY NAME USE [SAN]: a certificate with its key, in one file.
signed() {
    request "$2"
    certify "$2" basicConstraints=CA:FALSE keyUsage=digitalSignature "extendedKeyUsage=$3" \
        subjectKeyIdentifier=hash authorityKeyIdentifier=keyid ${4:+"subjectAltName=$4"} \
        -- -cert "$1.pem" -keyfile "$work/$1.key"
    cat "$work/$2.key" "$work/$2.pem" > "$2.pem"
}

near="DNS:localhost,IP:127.0.0.1,IP:::1"
authority authority
authority stranger-authority
signed authority server serverAuth "$near"
signed authority elsewhere serverAuth "DNS:elsewhere.example"
signed authority client clientAuth
signed authority other-client clientAuth
signed stranger-authority stranger-server serverAuth "$near"
signed stranger-authority stranger-client clientAuth

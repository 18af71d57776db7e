module amends/interop

go 1.21

require github.com/dtm-labs/client v1.18.7

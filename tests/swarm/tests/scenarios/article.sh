# The pipeline of Docker's article on the IPVS connection timeout, to be run in the network
# namespace of the client's container: sockets that conntrack has no entry for.
comm -23 <(ss -nt state established | awk 'NR>1{print $3,$4}' | sort) \
         <(conntrack -L -p tcp --state ESTABLISHED 2>/dev/null | awk '{split($5,s,"=");split($6,d,"=");split($7,sp,"=");split($8,dp,"=");print s[2]":"sp[2],d[2]":"dp[2]}' | sort)

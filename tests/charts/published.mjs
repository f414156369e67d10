// node published.mjs NODE_MODULES < objects.json: what the published types of Prometheus Operator, Karpenter and Gateway
// API say against each object, a line per object; an empty line means nothing. They do not refuse unknown fields.
import { pathToFileURL } from "node:url";

const PACKAGES = {
  "gateway.networking.k8s.io": "gateway-api",
  "karpenter.sh": "karpenter",
  "monitoring.coreos.com": "prometheus-operator",
};

let text = "";
for await (const part of process.stdin) text += part;
for (const doc of JSON.parse(text)) {
  const file = `${process.argv[2]}/@kubernetes-models/${PACKAGES[doc.apiVersion.split("/")[0]]}/${doc.apiVersion}/${doc.kind}.js`;
  const found = await import(pathToFileURL(file));
  try {
    new found[doc.kind](doc).validate();
    console.log("");
  } catch (error) {
    console.log(error.message.replaceAll("\n", " "));
  }
}

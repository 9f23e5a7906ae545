// Validates the contract with swagger-parser, and prints its complaints.
import SwaggerParser from "@apidevtools/swagger-parser";

try {
  await SwaggerParser.validate(process.argv[2]);
} catch (error) {
  console.error(error.message);
  process.exitCode = 1;
}
